#!/bin/sh
# Makes sure that PostgreSQL's server programs (initdb, postgres), version 15 or newer, are on this machine, for the
# demo and the tests. Says nothing when they are. Else it installs the distribution's package with apt-get, without the
# system-wide cluster that the package would create and start. Tells on standard error what it does.
#
#   test/ensure-postgresql.sh          exit 0: they are there now
#
# CDC_PG_BIN names a folder with other programs; then only that folder is looked at, and nothing is installed.
# ENSURE_ROOT is put before every absolute path, for the test of this script.
set -eu

version_min=15
root=${ENSURE_ROOT:-}

say() { echo "ensure-postgresql: $*" >&2; }
fail() { say "$*"; exit 1; }

# major FOLDER: prints the major version of the programs in the folder, or nothing.
major() {
	[ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 0
	"$1/postgres" --version 2>/dev/null | sed -n 's/^.*(PostgreSQL) \([0-9][0-9]*\).*$/\1/p'
}

# usable FOLDER: are the programs there, and new enough?
usable() {
	version=$(major "$1")
	[ -n "$version" ] && [ "$version" -ge "$version_min" ]
}

found() {
	for bin in "$root"/usr/lib/postgresql/*/bin "$root"/usr/pgsql-*/bin; do
		if usable "$bin"; then return 0; fi
	done
	program=$(command -v postgres) || return 1
	program=$(readlink -f "$program") || return 1
	usable "$(dirname "$program")"
}

# as_root COMMAND...: runs it with root's rights.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "installing needs root, and there is no sudo. Try, as root: apt-get install postgresql"
	fi
}

# no_system_cluster: the package creates and starts a cluster unless this file, written before, says no.
no_system_cluster() {
	conf=$root/etc/postgresql-common/createcluster.conf
	if grep -qs '^[[:space:]]*create_main_cluster[[:space:]]*=[[:space:]]*false' "$conf"; then return 0; fi
	say "set create_main_cluster = false in $conf"
	as_root mkdir -p "$(dirname "$conf")"
	if [ -e "$conf" ]; then
		as_root sed -i 's/^[[:space:]]*create_main_cluster[[:space:]]*=/#&/' "$conf"
	fi
	echo 'create_main_cluster = false' | as_root tee -a "$conf" >/dev/null
}

install() {
	command -v apt-get >/dev/null ||
		fail "no PostgreSQL $version_min or newer, and no apt-get to install it. Try: install the PostgreSQL server package of your system, or set CDC_PG_BIN to the folder with initdb and postgres"
	no_system_cluster
	say "apt-get update"
	as_root apt-get update -q >&2 || fail "apt-get update failed. Try: check the network and /etc/apt/sources.list"
	say "apt-get install postgresql"
	as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 \
		apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold postgresql >&2 ||
		fail "apt-get install postgresql failed; its messages are above"
}

if [ -n "${CDC_PG_BIN:-}" ]; then
	usable "$CDC_PG_BIN" ||
		fail "CDC_PG_BIN=$CDC_PG_BIN holds no PostgreSQL $version_min or newer (initdb and postgres). Try: unset CDC_PG_BIN, or correct it"
	exit 0
fi
if found; then exit 0; fi
install
found || fail "this distribution's PostgreSQL is older than $version_min. Try: https://wiki.postgresql.org/wiki/Apt"
say "PostgreSQL $version is installed"
