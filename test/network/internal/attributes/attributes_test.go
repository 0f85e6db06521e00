package attributes_test

import (
	"reflect"
	"testing"

	"kata-runtime/test/network/internal/attributes"
)

// TestEveryAttribute has a class: a field that is new in the library fails until
// it is mirrored, or there is a reason why not.
func TestEveryAttribute(t *testing.T) {
	for kind, classes := range attributes.Classes() {
		for i := range kind.NumField() {
			if name := kind.Field(i).Name; classes[name] == "" {
				t.Errorf("%v.%s is in no class", kind, name)
			}
		}
		for name, class := range classes {
			field, ok := kind.FieldByName(name)
			if !ok {
				t.Errorf("%v has no %s any more", kind, name)
				continue
			}
			if class != attributes.Compared {
				continue
			}
			value := reflect.New(kind).Elem()
			switch set := value.FieldByIndex(field.Index); {
			case set.CanInt():
				set.SetInt(1)
			case set.CanUint():
				set.SetUint(1)
			case set.Kind() == reflect.Bool:
				set.SetBool(true)
			case set.Kind() == reflect.String:
				set.SetString("1")
			default:
				t.Errorf("%v.%s is no scalar", kind, name)
			}
			if attributes.Describe(value.Interface()) == "" {
				t.Errorf("%v.%s is not described", kind, name)
			}
		}
	}
}
