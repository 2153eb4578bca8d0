# Sourced by what fetches packages of Debian, after lib.sh: apt with a state of its own, so that nothing of this machine changes.

suite=trixie
suites="$suite $suite-backports"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# private_apt STATE "suite..." ARGUMENTS: apt-get with sources, lists and archives of its own; the last suite is preferred.
private_apt() {
  local state=$GUEST_CACHE/apt-$1 sources=$2 preferred=${2##* } name
  shift 2
  mkdir -p "$state"/{none,lists/partial,archives/partial}
  [ -e "$state/status" ] || : >"$state/status"
  for name in $sources; do
    echo "deb [signed-by=$keyring] $mirror $name main"
  done >"$state/sources.list"
  apt-get -q=2 \
    -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts="$state/none" \
    -o Dir::Etc::preferences="$state/none/p" -o Dir::Etc::preferencesparts="$state/none" \
    -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives" \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Acquire::Languages=none \
    -o APT::Default-Release="$preferred" -o APT::Install-Recommends=false "$@"
}

# The mirror that this machine's own apt uses.
find_mirror() {
  local codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $codename" |
    sed -n 1p)
  [ -n "$mirror" ] || guest_die "apt knows no Debian mirror yet; run: apt-get update"
  [ -r "$keyring" ] || guest_die "$keyring is missing; install debian-archive-keyring"
}
