package moves

import (
	"math/rand/v2"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/moves/movestest"
)

// mixed is a world in which a fragment deletes and inserts.
func mixed(t *testing.T) *movestest.World {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 0))
	for range 1000 {
		w := movestest.New(r, movestest.Options{Identity: 'd'})
		moved, err := Order(w.Tx, Whole)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range moved {
			if f.each != nil {
				return w
			}
		}
	}
	t.Fatal("no world is mixed")
	return nil
}

// What is not followed stays in order, but for fragments that delete only.
func TestOrderLimit(t *testing.T) {
	w := mixed(t)
	defer func(n int) { rememberedMax = n }(rememberedMax)
	rememberedMax = 0
	moved, err := Order(w.Tx, Whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range moved {
		if f.each != nil {
			t.Error("it is followed")
		}
	}
}

// A fragment that changes tables stays in order, and so does what is about tables of one fragment, or of two forms.
func TestOrderStays(t *testing.T) {
	for name, change := range map[string]func(tx *pipeline.Transaction){
		"ddl": func(tx *pipeline.Transaction) {
			d := mark.DDL{Subscription: "s", Statement: "ALTER TABLE t ADD x int", Tag: "ALTER TABLE", Nth: 1}
			for _, f := range tx.Fragments {
				content := d.Content()
				msg := append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9}, mark.DDLPrefix...)
				msg = append(msg, 0, byte(len(content)>>24), byte(len(content)>>16), byte(len(content)>>8), byte(len(content)))
				f.Append(append(msg, content...))
			}
		},
		"other tables": func(tx *pipeline.Transaction) {
			for i, f := range tx.Fragments {
				r := *f.Relations[0].Relation
				r.Name += string(rune('a' + i))
				f.Relations[0].Relation = &r
			}
		},
		"two forms": func(tx *pipeline.Transaction) {
			for _, f := range tx.Fragments {
				r := *f.Relations[0].Relation
				f.Relations = append(f.Relations, pipeline.RelationUse{Offset: f.Size(), Relation: &r})
			}
		},
	} {
		w := mixed(t)
		change(w.Tx)
		moved, err := Order(w.Tx, Apart)
		if err != nil {
			t.Fatal(err)
		}
		for n, f := range moved {
			for i, fate := range f.each {
				if fate != InOrder {
					t.Errorf("%s: change %d of fragment %d has fate %d", name, i, n, fate)
				}
			}
		}
	}
}
