package node

import (
	"errors"
	"fmt"
	"strings"
)

// The marks around what is ours in a file of somebody else's. The second form of
// the first tells that a line's end was added before it.
const (
	beginMark  = "# BEGIN kata-runtime: `kata-runtime node remove` takes this block out again."
	joinedMark = "# BEGIN kata-runtime: `kata-runtime node remove` takes this block and the line's end before it out again."
	endMark    = "# END kata-runtime"
)

// errBlock is a block that was changed by hand beyond recognition.
var errBlock = errors.New("the marks of kata-runtime's block do not come in one pair: take the block out by hand, with both lines `# BEGIN kata-runtime...` and `" + endMark + "`")

// splitBlock takes our block out of a file. before and after are what was there
// without it; body is nil when there is no block.
func splitBlock(text string) (before string, body *string, after string, err error) {
	begin, end, bodyBegin, bodyEnd := -1, -1, 0, 0
	joined := false
	offset := 0
	for line := range strings.Lines(text) {
		switch mark := strings.TrimSpace(line); {
		case mark == beginMark || mark == joinedMark:
			if begin >= 0 {
				return "", nil, "", errBlock
			}
			begin, bodyBegin, joined = offset, offset+len(line), mark == joinedMark
		case strings.HasPrefix(mark, "# BEGIN kata-runtime"):
			return "", nil, "", errBlock
		case mark == endMark:
			if begin < 0 || end >= 0 {
				return "", nil, "", errBlock
			}
			bodyEnd, end = offset, offset+len(line)
		}
		offset += len(line)
	}
	if begin < 0 {
		return text, nil, "", nil
	}
	if end < 0 {
		return "", nil, "", errBlock
	}
	before, inside := text[:begin], text[bodyBegin:bodyEnd]
	if joined {
		before = strings.TrimSuffix(before, "\n")
	}
	return before, &inside, text[end:], nil
}

// setBlock returns text with body as our block: where it is already, or at the
// end. A table at the end of a TOML file ends nobody else's.
func setBlock(text, body string) (string, error) {
	before, old, after, err := splitBlock(text)
	if err != nil {
		return "", err
	}
	if old == nil {
		before, after = text, ""
	}
	mark := beginMark
	if before != "" && !strings.HasSuffix(before, "\n") {
		mark = joinedMark
		before += "\n"
	}
	return fmt.Sprintf("%s%s\n%s%s\n%s", before, mark, body, endMark, after), nil
}

// dropBlock returns text as it was before setBlock.
func dropBlock(text string) (string, error) {
	before, body, after, err := splitBlock(text)
	if err != nil || body == nil {
		return text, err
	}
	// Somebody has added to a file whose last line had no end: it needs one now.
	if after != "" && before != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	return before + after, nil
}
