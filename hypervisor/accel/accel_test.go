package accel

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestChoose(t *testing.T) {
	broken := func(context.Context) error { return &UnusableError{What: "no KVM", Next: "buy one"} }
	works := func(context.Context) error { return nil }
	unasked := func(context.Context) error { panic("tcg needs no test VM") }
	for _, c := range []struct {
		want    string
		test    func(context.Context) error
		name    string
		warning bool
	}{
		{Auto, works, KVM, false},
		{Auto, broken, TCG, true},
		{KVM, works, KVM, false},
		{TCG, unasked, TCG, false},
	} {
		got, err := choose(t.Context(), c.want, c.test)
		if err != nil || got.Name != c.name || got.Warning != c.warning || got.Reason == "" {
			t.Errorf("%s: got %+v, %v", c.want, got, err)
		}
	}
	_, err := choose(t.Context(), KVM, broken)
	if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "buy one") {
		t.Errorf("kvm demanded: %v", err)
	}
	if _, err := choose(t.Context(), "xen", works); err == nil {
		t.Error("an unknown accelerator was taken")
	}
}

func TestChooseEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := choose(ctx, Auto, func(ctx context.Context) error { return ctx.Err() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestSelectAnswers asks the real host: whatever it is, auto has an answer.
func TestSelectAnswers(t *testing.T) {
	got, err := Select(t.Context(), Auto)
	if err != nil || got.Name != KVM && got.Name != TCG || got.Reason == "" {
		t.Fatalf("got %+v, %v", got, err)
	}
	t.Logf("%+v", got)
}

func TestOpenProblems(t *testing.T) {
	for cause, next := range map[error]string{
		os.ErrNotExist: "load the kernel's kvm module",
		unix.EACCES:    "group",
		unix.EIO:       "tcg",
	} {
		if err := openProblem("/dev/kvm", cause); !strings.Contains(err.Error(), next) {
			t.Errorf("%v: %v", cause, err)
		}
	}
}
