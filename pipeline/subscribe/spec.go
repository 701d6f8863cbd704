package subscribe

import (
	"fmt"
	"hash/crc32"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nuid"

	"shardcdc/apply/files"
	"shardcdc/apply/mysql"
	"shardcdc/joiner/gid"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pattern"
	"shardcdc/pipeline/shape"
)

// Spec says what subscription is wanted. The zero value of each optional field means its default.
type Spec struct {
	Name    string
	Shards  []Shard
	Targets []control.Target

	// Tables are patterns (schema.table, with *; a leading - excludes) of what a publication made for this
	// subscription holds; default public.*. Publications are given ones instead, the same on every shard.
	Tables       []string
	Publications []string
	// Slot is a given slot, of the same name on every shard, made after the given Publications; empty: one is made.
	Slot string
	// SlotTimeout bounds how long making a slot waits for transactions that are open. Default DefaultSlotTimeout.
	SlotTimeout time.Duration

	Format         format.Format     // default format.Internal
	MaxClockSkew   time.Duration     // default control.DefaultMaxClockSkew
	MemoryBytesMax int64             // default control.DefaultMemoryBytesMax
	SpillBytesMax  int64             // default control.DefaultSpillBytesMax
	GIDRules       []control.GIDRule // before the built-in ones
	Truncate       string            // stop, apply or ignore; default stop
	StreamBytesMax int64             // the stream refuses more; 0: no limit of its own
	// CopyData: the rows that the tables hold already are copied. TargetRows says what targets do with rows that they hold
	// already (package mark); default mark.TargetFail. Copy bounds the load; default control.DefaultCopyParallel.
	CopyData        bool
	By              string // who asks for the copy: user@host
	TargetRows      string
	Copy            control.CopyOptions
	DDL             string        // default control.DDLIgnore
	FollowNewTables bool          // see control.Subscription
	CreateTables    bool          // see control.Subscription
	Shape           *shape.Shape  // see control.Subscription
	Retain          time.Duration // messages stay this long at least, and until every target has applied them; 0: for ever
}

// Shard is a database to read.
type Shard struct {
	Name string
	DSN  string // without a password; ${VAR} is expanded where it is used, and stored as it is
}

// slotNameMax is PostgreSQL's limit (NAMEDATALEN).
const slotNameMax = 63

// Defaults of a Spec.
const (
	DefaultSlotTimeout = 30 * time.Second
	DefaultTables      = "public.*"
)

// withDefaults fills in what is left open.
func (s Spec) withDefaults() Spec {
	if len(s.Tables) == 0 && len(s.Publications) == 0 {
		s.Tables = []string{DefaultTables}
	}
	if s.SlotTimeout == 0 {
		s.SlotTimeout = DefaultSlotTimeout
	}
	s.Format = s.Format.WithDefaults()
	if s.MaxClockSkew == 0 {
		s.MaxClockSkew = control.DefaultMaxClockSkew
	}
	if s.MemoryBytesMax == 0 {
		s.MemoryBytesMax = control.DefaultMemoryBytesMax
	}
	if s.SpillBytesMax == 0 {
		s.SpillBytesMax = control.DefaultSpillBytesMax
	}
	if s.Truncate == "" {
		s.Truncate = "stop"
	}
	if s.TargetRows == "" {
		s.TargetRows = mark.TargetFail
	}
	if s.Copy.Parallel == 0 {
		s.Copy.Parallel = control.DefaultCopyParallel
	}
	if s.DDL == "" {
		s.DDL = control.DDLIgnore
	}
	return s
}

// subscription is the entry as far as it is known before the shards are provisioned.
func (s *Spec) subscription() *control.Subscription {
	sub := control.NewSubscription(s.Name, nuid.Next(), time.Now().UTC().Truncate(time.Microsecond))
	sub.Format, sub.JSON, sub.Debezium, sub.SQL = s.Format.Name, s.Format.JSON, s.Format.Debezium, s.Format.SQL
	sub.Tables, sub.Targets, sub.GIDRules, sub.Truncate = s.Tables, s.Targets, s.GIDRules, s.Truncate
	sub.MaxClockSkew = control.Duration(s.MaxClockSkew)
	sub.MemoryBytesMax, sub.SpillBytesMax = s.MemoryBytesMax, s.SpillBytesMax
	sub.Retain = control.Duration(s.Retain)
	sub.Shape = s.Shape
	sub.Copy, sub.DDL, sub.FollowNewTables, sub.CreateTables = s.Copy, s.DDL, s.FollowNewTables, s.CreateTables
	for _, sh := range s.Shards {
		sub.Shards = append(sub.Shards, control.Shard{
			Name: sh.Name, DSN: sh.DSN, Slot: s.slot(sh.Name), OwnSlot: s.Slot == "", Publications: s.publications(), OwnPublication: len(s.Publications) == 0,
		})
	}
	return sub
}

// slot is named after the subscription and the shard: two shards may be databases of one server, where slots have
// one name space. The publication is named after the subscription.
func (s *Spec) slot(shard string) string {
	if s.Slot != "" {
		return s.Slot
	}
	name := "cdc_" + s.Name + "_" + shard
	if len(name) > slotNameMax {
		name = fmt.Sprintf("cdc_%s_%08x", s.Name, crc32.ChecksumIEEE([]byte(name)))
	}
	return name
}

func (s *Spec) publications() []string {
	if len(s.Publications) > 0 {
		return s.Publications
	}
	return []string{"cdc_" + s.Name}
}

// Validate lists every fault that can be seen without a connection. The error is of type Faults.
func (s Spec) Validate() error {
	s = s.withDefaults()
	if faults := s.faults(); len(faults) > 0 {
		return faults
	}
	return nil
}

func (s *Spec) faults() Faults {
	var faults Faults
	for _, err := range unjoin(s.subscription().Validate()) {
		faults = append(faults, FaultOf("", err))
	}
	faults = append(faults, s.connectionFaults()...)
	if len(s.Tables) > 0 && len(s.Publications) > 0 {
		faults = append(faults, faultf("", "either --tables or --publication", "tables and given publications exclude each other: a given publication says itself what it holds"))
	}
	if s.Slot != "" && len(s.Publications) == 0 {
		faults = append(faults, faultf("", "--publication with one that existed before the slot, or no --slot", "a given slot needs given publications: a publication made now is unknown at the slot's position, and decoding would fail there"))
	}
	if len(s.Tables) > 0 && !slices.ContainsFunc(s.Tables, func(p string) bool { return !strings.HasPrefix(p, "-") }) {
		faults = append(faults, faultf("", "--tables 'public.*,"+strings.Join(s.Tables, ",")+"'", "the table patterns only exclude"))
	}
	for _, p := range s.Tables {
		if _, err := parseSelection([]string{p}); err != nil {
			faults = append(faults, FaultOf("", err))
		}
	}
	var rules []gid.Rule
	for _, r := range s.GIDRules {
		rules = append(rules, gid.Rule{Pattern: r.Pattern, Template: r.Template})
	}
	if _, err := gid.New(rules); err != nil {
		faults = append(faults, FaultOf("gid rules", err))
	}
	if s.StreamBytesMax < 0 {
		faults = append(faults, faultf("", "--stream-bytes-max 100GiB, or 0 for no limit", "stream_bytes_max %d is negative", s.StreamBytesMax))
	}
	faults = append(faults, s.copyFaults()...)
	if s.SlotTimeout < time.Second {
		faults = append(faults, faultf("", "--slot-timeout 30s", "slot_timeout %s is too short, at least 1s", s.SlotTimeout))
	}
	return faults
}

func (s *Spec) copyFaults() (faults Faults) {
	if err := checkTargetRows(s.TargetRows); err != nil {
		faults = append(faults, FaultOf("", err))
	}
	for _, p := range s.Copy.Order {
		if chosen, err := pattern.Parse(p); err != nil {
			faults = append(faults, FaultOf("copy order", err))
		} else if chosen.Exclude {
			faults = append(faults, faultf("copy order", "without the -; what matches no pattern is copied last", "%q excludes", p))
		}
	}
	if s.FollowNewTables && len(s.Publications) > 0 {
		faults = append(faults, faultf("", "ALTER PUBLICATION … ADD TABLE and cdcctl resync, when a table comes", "new tables cannot be followed with a given publication: who made it says what it holds"))
	}
	return faults
}

func checkTargetRows(rows string) error {
	switch rows {
	case mark.TargetFail, mark.TargetTruncate, mark.TargetMerge:
		return nil
	}
	return fmt.Errorf("if_target_has_rows %q is unknown. Try: fail, truncate or merge", rows)
}

// connectionFaults: a password would be stored where many can read it.
func (s *Spec) connectionFaults() (faults Faults) {
	check := func(about, text string) {
		switch {
		case strings.TrimSpace(text) == "":
			faults = append(faults, faultf(about, "NAME=postgres://user@host:5432/database", "the DSN is empty"))
		case misplaced(text):
			faults = append(faults, faultf(about, "postgres://user@host:5432/database, or host=… dbname=…", "the DSN %s is neither a URL nor keywords", redact(text)))
		case dsn.HasPassword(text):
			faults = append(faults, faultf(about, passwordTry(text),
				"the DSN %s has a password in clear, which would be stored", dsn.Redact(text)))
		default:
			if err := CheckDSN(text); err != nil {
				faults = append(faults, FaultOf(about, err))
			}
		}
	}
	for _, sh := range s.Shards {
		check("shard "+sh.Name, sh.DSN)
		if kind := dsn.KindOf(sh.DSN); kind != dsn.PostgreSQL {
			faults = append(faults, faultf("shard "+sh.Name, "postgres://user@host:5432/database", "the DSN %s leads to %s; shards are PostgreSQL", redact(sh.DSN), kind))
		}
	}
	for _, t := range s.Targets {
		check("target "+t.Name, t.DSN)
	}
	return faults
}

// passwordTry says where a password may stand instead.
func passwordTry(text string) string {
	file := "put the password into ~/.pgpass of the user that runs cdcd"
	if dsn.KindOf(text) == dsn.MySQL {
		file = "put the password into a file of the user that runs cdcd (?passfile=…)"
	}
	return file + ", or write ${VAR} for it and set VAR where cdcd and cdcctl run"
}

// CheckDSN says whether a DSN can be read, as far as that does not depend on the machine that connects.
func CheckDSN(text string) error {
	if strings.HasPrefix(text, "${") {
		return nil // the variable may hold all of it
	}
	filled, err := dsn.Expand(text, func(string) (string, bool) { return "1", true })
	if err != nil {
		return err
	}
	switch dsn.KindOf(filled) {
	case dsn.MySQL:
		return mysql.CheckDSN(filled)
	case dsn.Files:
		_, err := files.ParseDSN(filled)
		return err
	case dsn.PostgreSQL:
	}
	if _, err = pgx.ParseConfig(filled); err == nil {
		return nil
	}
	_, why, _ := strings.Cut(err.Error(), "`: ")
	if !strings.HasPrefix(why, "failed to parse as") && !strings.HasPrefix(why, "invalid port") {
		return nil // a file or a service that is not here
	}
	return fmt.Errorf("the DSN %s cannot be used: %s. Try: postgres://user@host:5432/database, or host=… dbname=…; for targets also mysql://user@host:3306/database, or file:///folder", redact(text), why)
}

// misplaced says that there is a URL in the text that does not begin it: its password would not be recognised as one.
func misplaced(text string) bool {
	at := scheme.FindStringIndex(text)
	return at != nil && (at[0] > 0 || text[:at[1]] != strings.ToLower(text[:at[1]]))
}

// unjoin takes errors.Join apart.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// ParseNamed reads NAME=DSN. A DSN alone is allowed when fallback, the name it then has, is not empty. The first "="
// ends a name only if what stands before it can be one: keyword DSNs begin with "host=". No error shows a password.
func ParseNamed(text, fallback string) (name, rest string, err error) {
	before, after, ok := strings.Cut(text, "=")
	after = strings.TrimSpace(after)
	switch fault := control.CheckName("its", before); {
	case ok && fault == nil && !keyword[before]:
		return before, after, nil
	case fallback != "":
		return fallback, strings.TrimSpace(text), nil
	case !ok || keyword[before] || strings.ContainsAny(before, ":/ "):
		return "", "", fmt.Errorf("%q has no name. Try: NAME=DSN, as in a=postgres://user@host/database", redact(text))
	default:
		return "", "", fmt.Errorf("%q: %w", redact(text), fault)
	}
}

// scheme finds a URL, also in the wrong place or in capitals, where it is none for those who connect.
var scheme = regexp.MustCompile(`(?i)(postgres(ql)?|mysql|mariadb)://`)

// redact takes the passwords out of a text that may have something before its DSN.
func redact(text string) string {
	at := scheme.FindStringIndex(text)
	if at == nil {
		if before, after, ok := strings.Cut(text, "="); ok && !keyword[before] {
			return before + "=" + dsn.Redact(after)
		}
		return dsn.Redact(text)
	}
	return text[:at[0]] + dsn.Redact(strings.ToLower(text[at[0]:at[1]])+text[at[1]:])
}

// keyword are the beginnings of keyword DSNs that could be taken for names.
var keyword = map[string]bool{
	"host": true, "hostaddr": true, "port": true, "dbname": true, "database": true, "user": true, "password": true, "passfile": true,
	"service": true, "servicefile": true, "sslmode": true, "sslcert": true, "sslkey": true, "sslrootcert": true, "sslpassword": true,
	"application_name": true, "connect_timeout": true, "target_session_attrs": true, "options": true, "krbsrvname": true,
}
