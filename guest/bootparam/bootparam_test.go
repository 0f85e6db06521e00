package bootparam_test

import (
	"testing"

	"kata-runtime/guest/bootparam"
	"kata-runtime/guest/protocol"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		cmdline string
		want    bootparam.Params
	}{
		"empty": {"", bootparam.Params{ReadyPort: protocol.ReadyPort}},
		"all":   {"quiet kata.token=ab12 kata.ready_port=7 kata.debug=1 x=y\n", bootparam.Params{Token: "ab12", ReadyPort: 7, Debug: true}},
		"last":  {"kata.token=a kata.token=b", bootparam.Params{Token: "b", ReadyPort: protocol.ReadyPort}},
		"no 1":  {"kata.debug=0 kata.tokens=z", bootparam.Params{ReadyPort: protocol.ReadyPort}},
		"image": {
			`dm-mod.create="guest,,0,ro,0 8 verity 1 /dev/vda" rootfstype=erofs ro kata.debug=1`,
			bootparam.Params{ReadyPort: protocol.ReadyPort, MappedRoot: "guest,,0,ro,0 8 verity 1 /dev/vda", RootType: "erofs", Debug: true},
		},
		"equals": {"kata.token=a=b", bootparam.Params{Token: "a=b", ReadyPort: protocol.ReadyPort}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bootparam.Parse(test.cmdline)
			if err != nil || got != test.want {
				t.Fatalf("Parse(%q) = %+v, %v; want %+v", test.cmdline, got, err, test.want)
			}
		})
	}
}

func TestParseRefusesABadPort(t *testing.T) {
	for _, cmdline := range []string{"kata.ready_port=x", "kata.ready_port=4294967296", "kata.ready_port"} {
		if p, err := bootparam.Parse(cmdline); err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", cmdline, p)
		}
	}
}
