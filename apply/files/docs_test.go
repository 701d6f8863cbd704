package files

import (
	"os"
	"strings"
	"testing"
)

// The lines in docs/files.md are what is written.
func TestDocumentedIndex(t *testing.T) {
	page, err := os.ReadFile("../../docs/files.md")
	if err != nil {
		t.Fatal(err)
	}
	var index strings.Builder
	for i, block := range strings.Split(string(page), "```json\n") {
		if i > 0 {
			lines, _, _ := strings.Cut(block, "```")
			index.WriteString(lines)
		}
	}
	x, err := readIndex(strings.NewReader(index.String()))
	if err != nil || x.written != int64(index.Len()) || x.state.end != 194 {
		t.Errorf("%+v, %v", x, err)
	}
}
