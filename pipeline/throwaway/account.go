package throwaway

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// An account is the operating system's user that runs the server. PostgreSQL refuses to run as root.
type account struct {
	uid, gid uint32
	// other is true when this process is root and the server runs as somebody else.
	other bool
}

func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID == nil && errGID == nil && uid != 0 {
			return account{uid: uint32(uid), gid: uint32(gid), other: true}, nil
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody. " +
		"Try: run this as an ordinary user")
}

// attributes make a program run as the account.
func (a account) attributes() *syscall.SysProcAttr {
	if !a.other {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
}

// own gives path to the account.
func (a account) own(path string) error {
	if !a.other {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// letIn makes sure that the account can reach dir. Folders below the temporary folder (testing.T's are 0700) are opened
// for passing through, not for listing; anybody else's rights are not ours to change.
func (a account) letIn(dir string) error {
	if !a.other {
		return nil
	}
	temp := filepath.Clean(os.TempDir())
	for p := filepath.Clean(dir); ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if !a.passes(info) {
			if !strings.HasPrefix(p, temp+string(filepath.Separator)) {
				return fmt.Errorf("%s is closed to uid %d, which runs PostgreSQL here. Try: a folder below %s, or chmod o+x %s", p, a.uid, temp, p)
			}
			if err := os.Chmod(p, info.Mode().Perm()|0o001); err != nil {
				return err
			}
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// passes reports whether the account may go through the folder to what is below it.
func (a account) passes(info os.FileInfo) bool {
	mode := info.Mode().Perm()
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == a.uid {
		return mode&0o100 != 0
	}
	return mode&0o001 != 0
}
