//go:build inguest

package inside

import (
	"fmt"
	"runtime"
	"testing"

	"kata-runtime/guest/protocol"
)

// mostMemory is what the agent may occupy of the guest's memory.
const mostMemory = 20 << 20

// TestMemoryOfTheAgent comes before the tests that need memory themselves, in
// the order of the files' names.
func TestMemoryOfTheAgent(t *testing.T) {
	a := startAgent(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range 3 {
		a.run(fmt.Sprint("c", i), newSpec(t, "true"))
	}
	runtime.ReadMemStats(&after)
	hello, err := a.client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("resident: %d KiB; collections: %d; allocated: %d KiB", hello.GetAgentRssBytes()>>10, after.NumGC-before.NumGC, (after.TotalAlloc-before.TotalAlloc)>>10)
	if hello.GetAgentRssBytes() > mostMemory {
		t.Errorf("the agent occupies %d bytes", hello.GetAgentRssBytes())
	}
}
