package oci

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// field is a leaf of specs.Spec.
type field struct {
	// path is as in docs/spec-fields.md: "mounts[].options".
	path string
	// steps lead to it: a field's index in its struct, or element.
	steps []int
}

// element steps into the first element of a slice.
const element = -1

// otherPlatforms are sections that have one row each.
func otherPlatforms() map[string]bool {
	return map[string]bool{"solaris": true, "windows": true, "vm": true, "zos": true, "freebsd": true}
}

// specFields walks specs.Spec. Maps, and slices of anything but structs, are
// leaves.
func specFields() []field {
	return structFields(reflect.TypeFor[specs.Spec](), field{})
}

func structFields(shape reflect.Type, at field) []field {
	var fields []field
	for i := range shape.NumField() {
		member := shape.Field(i)
		next := field{path: at.path, steps: append(append([]int(nil), at.steps...), i)}
		if !member.Anonymous {
			name, _, _ := strings.Cut(member.Tag.Get("json"), ",")
			next.path = strings.TrimPrefix(at.path+"."+name, ".")
		}
		fields = append(fields, typeFields(member.Type, next)...)
	}
	return fields
}

func typeFields(shape reflect.Type, at field) []field {
	switch {
	case otherPlatforms()[at.path]:
		return []field{at}
	case shape.Kind() == reflect.Pointer && shape.Elem().Kind() == reflect.Struct:
		return typeFields(shape.Elem(), at)
	case shape.Kind() == reflect.Slice && shape.Elem().Kind() == reflect.Struct:
		at.path += "[]"
		at.steps = append(at.steps, element)
		return typeFields(shape.Elem(), at)
	case shape.Kind() == reflect.Struct:
		return structFields(shape, at)
	default:
		return []field{at}
	}
}

// in returns the field's value in spec. With make, what is missing on the way
// is made; without, the result is invalid where something is missing.
func (f field) in(spec *specs.Spec, create bool) reflect.Value {
	value := reflect.ValueOf(spec).Elem()
	for _, step := range f.steps {
		if value.Kind() == reflect.Pointer {
			if value.IsNil() {
				if !create {
					return reflect.Value{}
				}
				value.Set(reflect.New(value.Type().Elem()))
			}
			value = value.Elem()
		}
		if step != element {
			value = value.Field(step)
			continue
		}
		if value.Len() == 0 {
			if !create {
				return reflect.Value{}
			}
			value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		}
		value = value.Index(0)
	}
	return value
}

// row is one field in docs/spec-fields.md.
type row struct{ path, class string }

// documentedRows parses the tables, with braces expanded.
func documentedRows(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile("../../docs/spec-fields.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		name := strings.Trim(cells[1], " `")
		for _, path := range expandBraces(name) {
			rows = append(rows, row{path: path, class: strings.TrimSpace(cells[2])})
		}
	}
	return rows
}

// expandBraces turns "a.{b,c}[].{d,e}" into its four fields.
func expandBraces(text string) []string {
	start, end := strings.IndexByte(text, '{'), strings.IndexByte(text, '}')
	if start < 0 {
		return []string{text}
	}
	var all []string
	for choice := range strings.SplitSeq(text[start+1:end], ",") {
		for _, rest := range expandBraces(text[end+1:]) {
			all = append(all, text[:start]+choice+rest)
		}
	}
	return all
}

func TestEveryFieldHasARow(t *testing.T) {
	var want, got []string
	for _, f := range specFields() {
		want = append(want, f.path)
	}
	for _, r := range documentedRows(t) {
		got = append(got, r.path)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/spec-fields.md (+) differs from the specification (-):\n%s", diff)
	}
}

// baseSpec is a valid specification in which each list that needs a meaningful
// first element has one.
func baseSpec() *specs.Spec {
	return &specs.Spec{
		Version: "1.3.0",
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts:  []specs.Mount{{Destination: "/m", Type: "tmpfs", Source: "tmpfs"}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
			Devices: []specs.LinuxDevice{
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
				{Path: "/dev/disk", Type: "b"}, // 0:0, on which limits can be set
			},
		},
	}
}

// sampleTexts are values for fields that take only certain ones.
func sampleTexts() map[string]any {
	return map[string]any{
		"linux.devices[].type":  "u",
		"linux.devices[].major": int64(1),
		"linux.devices[].minor": int64(5),
	}
}

// setSample gives the field a value that is not zero.
func setSample(value reflect.Value) {
	switch value.Kind() {
	case reflect.Pointer:
		value.Set(reflect.New(value.Type().Elem()))
		setSample(value.Elem())
	case reflect.String:
		value.SetString("sample")
	case reflect.Bool:
		value.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		value.SetInt(7)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		value.SetUint(70) // a weight of block I/O too
	case reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		setSample(value.Index(0))
	case reflect.Map:
		element := reflect.New(value.Type().Elem()).Elem()
		setSample(element)
		value.Set(reflect.MakeMap(value.Type()))
		value.SetMapIndex(reflect.ValueOf("key"), element)
	case reflect.Struct:
		// A section of another platform, or the value of a map.
		if value.NumField() > 0 && value.Field(0).CanSet() && value.Field(0).Kind() != reflect.Struct {
			setSample(value.Field(0))
		}
	default:
		panic("no sample for a " + value.Kind().String())
	}
}

// TestTransformTreatsEachFieldAsDocumented sets one field at a time and looks
// at what becomes of it.
func TestTransformTreatsEachFieldAsDocumented(t *testing.T) {
	class := make(map[string]string)
	for _, r := range documentedRows(t) {
		class[r.path] = r.class
	}
	for _, f := range specFields() {
		t.Run(f.path, func(t *testing.T) {
			spec := baseSpec()
			original := f.in(spec, true)
			if strings.HasPrefix(f.path, "mounts[].uidMappings") || strings.HasPrefix(f.path, "mounts[].gidMappings") {
				spec.Mounts[0] = specs.Mount{
					Destination: "/m", Type: "bind", Source: "/usr", UIDMappings: idMap(7), GIDMappings: idMap(7),
				}
			}
			if sample, ok := sampleTexts()[f.path]; ok {
				original.Set(reflect.ValueOf(sample).Convert(original.Type()))
			} else if class[f.path] != "translated" {
				setSample(original)
			}
			guest, err := Transform(spec, testOptions())
			checkClass(t, class[f.path], f, original, guest, err)
		})
	}
}

func checkClass(t *testing.T, class string, f field, original reflect.Value, guest *GuestSpec, err error) {
	t.Helper()
	if class == "error" {
		name := f.path[:max(strings.LastIndex(f.path, "[]"), 0)]
		if strings.Count(f.path, "[]") == 0 {
			name = f.path
		}
		name = name[strings.LastIndexByte(name, '.')+1:]
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("error = %v, want one that names %s", err, name)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := f.in(guest.Spec, false)
	switch class {
	case "enforced":
		if !got.IsValid() || !reflect.DeepEqual(got.Interface(), original.Interface()) {
			t.Errorf("the guest gets %v, not %v", got, original)
		}
	case "host-only":
		if got.IsValid() && !got.IsZero() {
			t.Errorf("the guest gets %v", got)
		}
		if !droppedOrHook(guest, f.path) {
			t.Errorf("dropped silently: %q", guest.Dropped)
		}
	case "translated": // each has tests of its own
	default:
		t.Errorf("class %q is unknown", class)
	}
}

func droppedOrHook(guest *GuestSpec, path string) bool {
	if strings.HasPrefix(path, "hooks.") {
		return true // whoever runs them reads the original
	}
	return slices.ContainsFunc(guest.Dropped, func(entry string) bool {
		name, _, _ := strings.Cut(entry, ":")
		return path == name || strings.HasPrefix(path, name+".") || strings.HasPrefix(path, name+"[")
	})
}
