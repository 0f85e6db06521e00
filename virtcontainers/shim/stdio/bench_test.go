package stdio

import (
	"io"
	"testing"

	"kata-runtime/virtcontainers"
)

const benchmarked = 64 << 20

// drainAll takes what comes, as containerd does.
func drainAll(from io.Reader) <-chan int64 {
	done := make(chan int64, 1)
	go func() {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{from}, make([]byte, 256<<10))
		done <- n
	}()
	return done
}

func flood(b *testing.B, to io.WriteCloser) {
	b.Helper()
	data := make([]byte, 256<<10)
	for range benchmarked / len(data) {
		if _, err := to.Write(data); err != nil {
			b.Error(err)
			return
		}
	}
	to.Close()
}

func BenchmarkOutput(b *testing.B) {
	b.SetBytes(benchmarked)
	for b.Loop() {
		out := makeFifo(b)
		a, g, _ := attached(b, Config{Stdout: out})
		done := drainAll(reader(b, out))
		go flood(b, g.stdout)
		a.Close(virtcontainers.Exit{})
		if n := <-done; n != benchmarked {
			b.Fatal(n)
		}
	}
}

func BenchmarkInput(b *testing.B) {
	b.SetBytes(benchmarked)
	for b.Loop() {
		in := makeFifo(b)
		a, g, _ := attached(b, Config{Stdin: in})
		done := drainAll(g.stdin)
		flood(b, writer(b, in))
		a.CloseStdin()
		if n := <-done; n != benchmarked {
			b.Fatal(n)
		}
	}
}

// What is there to beat: io.Copy, which splices from a unix socket to a pipe.
func BenchmarkIOCopy(b *testing.B) {
	for name, small := range map[string]bool{"as it is": false, "buffer of runc's shim": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchmarked)
			for b.Loop() {
				out := makeFifo(b)
				host, guest := connection(b)
				opened := make(chan io.WriteCloser, 1)
				go func() { opened <- writer(b, out) }()
				done := drainAll(reader(b, out))
				to := <-opened
				go flood(b, guest)
				if small {
					_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{host}, make([]byte, 4096))
				} else {
					_, _ = io.Copy(to, host)
				}
				to.Close()
				if n := <-done; n != benchmarked {
					b.Fatal(n)
				}
			}
		})
	}
}
