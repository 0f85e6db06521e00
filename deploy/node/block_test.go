package node

import (
	"errors"
	"strings"
	"testing"
)

func FuzzBlock(f *testing.F) {
	for _, text := range []string{"", "version = 2\n", "version = 2", "a = 1\n\n", "# comment\r\n", endMark} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const body = "[a]\nb = 1\n"
		with, err := setBlock(text, body)
		if err != nil {
			if !strings.Contains(text, "kata-runtime") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := setBlock(with, body)
		if err != nil || again != with {
			t.Fatalf("not the same a second time: %q, %q, %v", with, again, err)
		}
		other, err := setBlock(with, "c = 2\n")
		if err != nil || strings.Contains(other, body) && !strings.Contains(text, body) {
			t.Fatalf("not replaced: %q, %v", other, err)
		}
		if !strings.Contains(text, "# BEGIN kata-runtime") {
			if without, err := dropBlock(with); err != nil || without != text {
				t.Fatalf("%q became %q (%v)", text, without, err)
			}
		}
	})
}

func TestBlockMarks(t *testing.T) {
	for _, text := range []string{
		beginMark + "\n", endMark + "\n" + beginMark + "\n", beginMark + "\n" + endMark + "\n" + endMark + "\n",
		beginMark + "\n" + beginMark + "\n" + endMark + "\n", "# BEGIN kata-runtime of another time\n" + endMark + "\n", endMark + "\n",
	} {
		if _, err := setBlock(text, "x\n"); !errors.Is(err, errBlock) {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := dropBlock(text); !errors.Is(err, errBlock) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestBlockLaterLines(t *testing.T) {
	with, err := setBlock("a = 1", "[b]\n") // its last line has no end
	if err != nil {
		t.Fatal(err)
	}
	got, err := dropBlock(with + "[c]\n")
	if want := "a = 1\n[c]\n"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
