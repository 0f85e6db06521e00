package passthrough

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// namedTable has a root, and so many directories.
func namedTable(directories int) (t *table, m *mount, places []uint32) {
	t, m = &table{}, &mount{fd: -1}
	t.init(true)
	t.addRoot(key{ino: 1}, m, -1)
	for i := range directories {
		place, n := t.insert(key{ino: uint64(2 + i)}, m, unix.S_IFDIR)
		n.lookups = 1
		t.setName(place, n, rootPlace, fmt.Sprint("d", i))
		places = append(places, place)
	}
	return t, m, places
}

// An event asks who has had a name: of thousands of files that the guest knows few are
// looked at, in one directory as in many.
func TestAFileIsFoundByItsNameAmongThousands(t *testing.T) {
	for _, directories := range []int{1, 500} {
		nodes, m, dirs := namedTable(directories)
		const files = 20_000
		for i := range files {
			place, n := nodes.insert(key{ino: uint64(1000 + i)}, m, unix.S_IFREG)
			n.lookups = 1
			nodes.setName(place, n, dirs[i%directories], fmt.Sprint("file", i))
		}
		looked, most := 0, 0
		for i := range files {
			each := 0
			nodes.eachNamed(dirs[i%directories], fmt.Sprint("file", i), func(uint32, *node) bool {
				each++
				return true
			})
			if found := nodes.named(dirs[i%directories], fmt.Sprint("file", i)); len(found) != 1 {
				t.Fatalf("file %d of %d directories is found %d times", i, directories, len(found))
			}
			looked += each
			most = max(most, each)
		}
		if looked > 3*files || most > 30 {
			t.Errorf("for %d names in %d directories %d files are looked at, %d for one of them", files, directories, looked, most)
		}
		if places := len(nodes.names.next); places > int(nodes.places()) || len(nodes.names.heads) > 2*(files+directories) {
			t.Errorf("%d and %d places for %d files", places, len(nodes.names.heads), files)
		}
	}
}

// Names are found as by looking at all nodes, whatever became of them.
func TestNamesFollowTheNodes(t *testing.T) {
	nodes, m, dirs := namedTable(20)
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list []uint32) uint32 { return list[random.IntN(len(list))] }
	var files []uint32
	for round := range 20_000 {
		switch kind := random.IntN(4); {
		case kind == 0 || len(files) == 0:
			place, n := nodes.insert(key{ino: uint64(1000 + round)}, m, unix.S_IFREG)
			n.lookups = 1
			nodes.setName(place, n, pick(dirs), fmt.Sprint(random.IntN(30)))
			files = append(files, place)
		case kind == 1:
			i := random.IntN(len(files))
			n := nodes.at(files[i])
			n.lookups = 0
			nodes.release(files[i], n, nil)
			files = slices.Delete(files, i, i+1)
		case kind == 2: // directories as well, into one another
			place := pick(dirs)
			nodes.setName(place, nodes.at(place), pick(dirs), fmt.Sprint(random.IntN(30)))
		default:
			place := pick(files)
			nodes.setName(place, nodes.at(place), pick(dirs), fmt.Sprint(random.IntN(30)))
		}
		parent, name := pick(dirs), fmt.Sprint(random.IntN(30))
		var want []uint32
		for place := uint32(1); place < nodes.places(); place++ {
			if n := nodes.at(place); n.flags&nodeLive != 0 && n.parent == parent && n.again == name {
				want = append(want, place)
			}
		}
		got := nodes.named(parent, name)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: %q in %d is found at %v, want %v", round, name, parent, got, want)
		}
	}
	named := 0
	for place := uint32(1); place < nodes.places(); place++ {
		if n := nodes.at(place); n.flags&nodeLive != 0 && n.parent != 0 {
			named++
		}
	}
	if nodes.names.count != named {
		t.Errorf("%d names are kept of %d", nodes.names.count, named)
	}
}
