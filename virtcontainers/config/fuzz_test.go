package config

import "testing"

// FuzzParse: no text makes reading a configuration panic, and what is accepted can
// be used.
func FuzzParse(f *testing.F) {
	f.Add("[hypervisor]\nconfine = false\nconfine_users = \"1-5\"\n[hypervisor.qemu]\npath = \"/usr/bin/qemu\"\n")
	f.Add("[runtime]\nenable_debug = true\nhost_network_tcp_ports = \"80-90\"\n")
	f.Add("[agent.kata]\ndial_timeout = -1\n")
	f.Add("[hypervisor]\nnot_known = 1\n")
	f.Add("[[hypervisor]]\n")
	f.Add("a.b.c = {d = [1, 2.5, 1979-05-27T07:32:00Z]}\n")
	f.Add(string([]byte{0xff, 0xfe}))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("fuzz.toml", text)
		if err != nil {
			return
		}
		if _, _, err := c.Hypervisor.UserRange(); err != nil {
			t.Errorf("the range of users: %v", err)
		}
		// What is written of it reads as the same.
		for _, o := range Options() {
			if problem := o.check(c); problem != "" {
				t.Errorf("%s.%s %s", o.Table, o.Key, problem)
			}
		}
	})
}
