#!/bin/sh
# Makes sure that MariaDB's programs (mariadbd, mariadb-install-db, mariadb) are on this machine, for the tests. Says nothing when
# they are. Else it installs the distribution's packages with apt-get, without starting the system's server, and keeps that from
# starting later. Tells on standard error what it does.
#
#   test/ensure-mariadb.sh          exit 0: they are there now
#
# ENSURE_ROOT is put before every absolute path, for the test of this script.
set -eu

root=${ENSURE_ROOT:-}

say() { echo "ensure-mariadb: $*" >&2; }
fail() { say "$*"; exit 1; }

there() {
	for program in mariadbd mariadb-install-db mariadb; do
		[ -x "$root/usr/sbin/$program" ] || [ -x "$root/usr/bin/$program" ] || command -v "$program" >/dev/null || return 1
	done
}

# as_root COMMAND...: runs it with root's rights.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "installing needs root, and there is no sudo. Try, as root: apt-get install mariadb-server mariadb-client"
	fi
}

# quietly COMMAND...: runs it while no package may start a service (see invoke-rc.d(8)). A policy that is there stays.
quietly() {
	policy=$root/usr/sbin/policy-rc.d
	if [ -e "$policy" ]; then
		"$@"
		return
	fi
	say "no service is started meanwhile ($policy)"
	printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
	as_root chmod 755 "$policy"
	status=0
	"$@" || status=$?
	as_root rm -f "$policy"
	return "$status"
}

get() {
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold mariadb-server mariadb-client >&2
}

# not_at_boot: tests start servers of their own.
not_at_boot() {
	if [ -d "$root/run/systemd/system" ] && command -v systemctl >/dev/null; then
		as_root systemctl disable mariadb >&2 || say "systemctl disable mariadb failed; the system's server may start at the next boot"
	fi
}

if there; then exit 0; fi
command -v apt-get >/dev/null ||
	fail "no MariaDB, and no apt-get to install it. Try: install the MariaDB server and client packages of your system"
say "apt-get update"
as_root apt-get update -q >&2 || fail "apt-get update failed. Try: check the network and /etc/apt/sources.list"
say "apt-get install mariadb-server mariadb-client"
quietly get || fail "apt-get install mariadb-server failed; its messages are above"
not_at_boot
there || fail "mariadbd, mariadb-install-db or mariadb is not in /usr/sbin or /usr/bin after the installation"
say "MariaDB is installed"
