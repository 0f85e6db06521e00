// Package client speaks Kubernetes' container runtime interface (CRI) with a
// container manager: the calls by gRPC, as generated, and what the manager
// streams (exec, attach, port-forward) by websockets, the way kubelet lets
// kubectl talk to it.
package client

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Client is a connection to a manager.
type Client struct {
	// RuntimeServiceClient has the calls on pods and containers.
	runtime.RuntimeServiceClient
	// Images has the calls on images.
	Images runtime.ImageServiceClient

	conn *grpc.ClientConn
}

// New returns a client of the manager that listens on a unix socket. It
// connects when it is used first, and again when the manager was restarted: a
// call waits for that.
func New(socket string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", socket, err)
	}
	return &Client{
		RuntimeServiceClient: runtime.NewRuntimeServiceClient(conn),
		Images:               runtime.NewImageServiceClient(conn),
		conn:                 conn,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close the CRI connection: %w", err)
	}
	return nil
}
