#!/bin/sh
# Installs cyoloctl from this directory, without a network: it needs python3 3.11 or newer and nothing else.
# What is in it is checked first.  A forged archive has a forged install.sh: check the archive's own
# signature before you unpack it (docs/install.md).
set -eu
umask 022

usage() {
    cat <<'END'
usage: sh install.sh [--key FILE] [--prefix DIR] [--python PROGRAM]
       sh install.sh --rollback | --uninstall [--prefix DIR]

Installs this release into /opt/cyoloctl/VERSION and makes it the current one. As root that includes the
command /usr/local/bin/cyoloctl, the manual, completions, units of systemd and the user cyoloctl. A release
that was there stays, for --rollback. Nodes that run go on with theirs until they are started again.

  --key FILE        check the signature with this public key, which you got in another way than this archive
  --prefix DIR      install below DIR only, as any user; the command is DIR/bin/cyoloctl
  --python PROGRAM  Python to install for [default: python3]
  --rollback        make the release before this one the current one; again: back to this one
  --uninstall       remove every release, and all that was installed with them; data of nodes stays
END
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $1"
    exit "${2:-1}"
}

here=$(unset CDPATH && cd -- "$(dirname -- "$0")" && pwd)
action=install key='' prefix='' python=python3
while [ $# -gt 0 ]; do
    case $1 in
        --key | --prefix | --python)
            # An empty one is a variable that was not set: without it this would be the machine's own installation.
            if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 needs a value; see --help" 2; fi
            case $1 in --key) key=$2 ;; --prefix) prefix=$2 ;; *) python=$2 ;; esac
            shift
            ;;
        --rollback) action=rollback ;;
        --uninstall) action=uninstall ;;
        -h | --help) usage && exit 0 ;;
        *) fail "what is $1? see --help" 2 ;;
    esac
    shift
done

case $key in '' | /*) ;; *) key=$PWD/$key ;; esac

# Where things go.  With --prefix all is below it, and nothing of the system is touched.
if [ -n "$prefix" ]; then
    # One name for one directory: what runs from it is looked for by that name.
    prefix=$(realpath -m -- "$prefix")
    system=no bin=$prefix/bin share=$prefix/share units=''
else
    [ "$(id -u)" = 0 ] || fail 'only root may install into /opt/cyoloctl: use sudo, or name a directory of your own with --prefix'
    prefix=/opt/cyoloctl system=yes bin=/usr/local/bin share=/usr/local/share units=/usr/local/lib/systemd/system
fi
case $prefix in *[!A-Za-z0-9/._+@-]*) fail "the path $prefix has a character that does not fit into the first line of a script; choose another one with --prefix" 2 ;; esac

# No two of these at once in one prefix, as far as the machine has flock: one would remove what the other makes.
alone() {
    [ -d "$prefix" ] && command -v flock >/dev/null || return 0
    exec 9<"$prefix"
    flock -n 9 || fail "another install.sh is at work in $prefix: try again when it has ended" 4
}

current() { readlink "$prefix/current" 2>/dev/null || true; }
previous() { readlink "$prefix/previous" 2>/dev/null || true; }

# Point a link elsewhere, at once: whoever starts the command meanwhile finds one or the other.
point() {
    rm -f "$2.new"
    ln -s "$1" "$2.new"
    mv -T "$2.new" "$2"
}

# Whether a process runs from a release.  What is looked for is not in grep's own arguments.
# shellcheck disable=SC2062
in_use() { printf '%s\n' "$1/bin/python" | grep -qsaF --file=- -- /proc/[0-9]*/cmdline; }

# What was put outside the directories of the releases is in $prefix/installed, one path per line, noted before
# it is there; directories that were made for it end in /.  $prefix/wanted: what the current release has of it.
note() {
    printf '%s\n' "$1" >>"$prefix/wanted"
    grep -qsxF -e "$1" "$prefix/installed" || printf '%s\n' "$1" >>"$prefix/installed"
}

make_directory() {
    [ ! -d "$1" ] || return 0
    make_directory "$(dirname "$1")"
    note "$1/"
    mkdir "$1"
}

# Remove what was put there and is not wanted any more: the files, then directories of ours that are empty now.
withdraw() {
    [ -f "$prefix/installed" ] || return 0
    grep -vxF -f "$prefix/wanted" "$prefix/installed" | grep -v '/$' | while IFS= read -r path; do rm -f "$path"; done
    grep '/$' "$prefix/installed" | sort -r | while IFS= read -r path; do
        rmdir "$path" 2>/dev/null || true
    done
    # Directories stay noted as long as they are there.
    { cat "$prefix/wanted" && grep '/$' "$prefix/installed"; } | sort -u | while IFS= read -r path; do
        [ ! -e "${path%/}" ] && [ ! -L "${path%/}" ] || printf '%s\n' "$path"
    done >"$prefix/installed.new"
    mv -T "$prefix/installed.new" "$prefix/installed"
    rm -f "$prefix/wanted"
}

# put FILE DIRECTORY: a link to a file of the current release.
put() {
    make_directory "$2"
    place=$2/${1##*/}
    if [ -e "$place" ] || [ -L "$place" ]; then
        case $(readlink "$place" || true) in
            "$prefix"/*) ;;
            *) say "warning: $place is not ours and stays as it is"; return 0 ;;
        esac
    fi
    note "$place"
    point "$prefix/current/${1#"$prefix/$(current)/"}" "$place"
}

# Put the command, manual, completions and units of the current release where people and systemd look.
publish() {
    release=$prefix/$(current)
    : >"$prefix/wanted"
    put "$release/bin/cyoloctl" "$bin"
    for page in "$release"/bundle/man/man1/*; do put "$page" "$share/man/man1"; done
    put "$release/bundle/completions/_cyoloctl" "$share/zsh/site-functions"
    put "$release/bundle/completions/cyoloctl.fish" "$share/fish/vendor_completions.d"
    put "$release/bundle/completions/cyoloctl.bash" "$share/bash-completion/completions"
    # A release before this one has none.
    [ ! -e "$release/bundle/manual.html" ] || put "$release/bundle/manual.html" "$share/doc/cyoloctl"
    [ "$system" = yes ] || return 0
    # Copies: systemd reads them before what /opt may be mounted from.
    make_directory "$units"
    for unit in "$release"/bundle/systemd/*; do
        place=$units/${unit##*/}
        if [ -e "$place" ] || [ -L "$place" ]; then
            if ! grep -qsxF -e "$place" "$prefix/installed"; then
                cmp -s "$unit" "$place" || say "warning: the unit $place is not ours and stays as it is: compare it with $unit"
                continue
            fi
        fi
        note "$place"
        cp "$unit" "$place"
    done
}

# What `systemctl enable` made leads nowhere without the units.
forget_enabled() {
    [ "$system" = yes ] || return 0
    for link in /etc/systemd/system/*.wants/cyoloctl*; do
        case $(readlink "$link" || true) in
            "$units"/*) [ -e "$link" ] || rm -f "$link" ;;
        esac
    done
}

reload_units() {
    if [ "$system" = yes ] && [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
}

make_user() {
    [ "$system" = yes ] || return 0
    if ! id cyoloctl >/dev/null 2>&1; then
        if ! command -v useradd >/dev/null; then
            say 'warning: there is no useradd here: make the user cyoloctl, as which the units run nodes'
            return 0
        fi
        useradd --system --user-group --home-dir /var/lib/cyoloctl --shell /usr/sbin/nologin cyoloctl
    fi
    if [ ! -e /var/lib/cyoloctl ]; then
        mkdir /var/lib/cyoloctl
        chown cyoloctl: /var/lib/cyoloctl
    fi
}

switch_to() {
    was=$(current)
    # First the way back: nothing may end between these two without it.
    if [ -n "$was" ] && [ "$was" != "$1" ]; then point "$was" "$prefix/previous"; fi
    point "$1" "$prefix/current"
    settle
}

# All that is outside of the releases as the current one has it, nothing missing meanwhile.
settle() {
    publish
    withdraw
    reload_units
}

tell_nodes() {
    if [ "$system" = yes ]; then
        say 'nodes that run go on with the release they began with; one after the other, each when the last is up again:'
        say '  systemctl restart cyoloctl@NAME'
    fi
}

# 0: SHA256SUMS was signed by the key; 3: nothing here can check that.
verify_signature() {
    if command -v openssl >/dev/null && openssl pkeyutl -help 2>&1 | grep -q rawin; then
        openssl pkeyutl -verify -rawin -pubin -inkey "$key" -sigfile SHA256SUMS.sig -in SHA256SUMS >/dev/null 2>&1
    else
        "$python" -I verify-signature.py "$key" SHA256SUMS.sig SHA256SUMS >/dev/null 2>&1
    fi
}

verify() (
    cd "$here"
    [ -f SHA256SUMS ] || fail "$here is no unpacked bundle: SHA256SUMS is missing"
    if [ -n "$key" ]; then
        [ -r "$key" ] || fail "cannot read the public key $key" 2
        [ -f SHA256SUMS.sig ] || fail 'this bundle is not signed: get one that is, or leave out --key if you trust where it came from'
        status=0
        verify_signature || status=$?
        case $status in
            0) ;;
            3) fail 'the signature cannot be checked: there is no openssl 3.0 or newer, and this Python comes without libcrypto; check the archive on another machine' ;;
            *) fail 'the signature is not by that key: this bundle is forged or damaged, or the key is another one' ;;
        esac
        say 'the signature is right'
    elif [ "$here" = /usr/share/cyoloctl/bundle ]; then
        : # of a Debian package: its own signature is checked before it is installed
    elif [ -f SHA256SUMS.sig ]; then
        say 'the signature was not checked: give the public key with --key'
    else
        say 'this bundle is not signed'
    fi
    sha256sum --check --strict --quiet SHA256SUMS >&2 || fail 'a file is not as it was built: get the archive again'
    # Nothing that the sums do not name gets installed.
    extra=$({ cut -c67- SHA256SUMS && find . ! -type d ! -name SHA256SUMS ! -name SHA256SUMS.sig | cut -c3-; } | sort | uniq -u)
    [ -z "$extra" ] || fail "these files are not part of the bundle: $extra"
)

find_python() {
    command -v "$python" >/dev/null || fail "there is no $python: install Python 3.11 or newer, or name it with --python"
    "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is older than 3.11: name a newer one with --python"
    "$python" -I -c 'import venv' 2>/dev/null || fail "$python has no module venv: install all of Python (Debian: apt-get install python3, not only python3-minimal)"
}

install() {
    find_python
    verify
    mkdir -p "$prefix"
    alone
    version=$(cat "$here/VERSION")
    release=$prefix/$version
    if [ -e "$release/bundle/SHA256SUMS" ]; then
        cmp -s "$here/SHA256SUMS" "$release/bundle/SHA256SUMS" ||
            fail "another build of $version is in $release: --uninstall it first, or install a release with another version"
        if [ "$(current)" = "$version" ]; then
            # Whatever one that was interrupted has not done.
            make_user
            settle
            forget_older
            say "$version is installed already"
            exit 0
        fi
    else
        rm -rf "$release" # of an installation that did not end
        trap 'rm -rf "$release"' EXIT
        trap 'exit 130' INT TERM HUP
        mkdir -p "$release"
        "$python" -I -m venv --without-pip "$release"
        # pip is run from its wheel and is not installed.  No setting of this machine counts.
        set -- "$here"/wheels/pip-*.whl
        PIP_CONFIG_FILE=/dev/null "$release/bin/python" -I "$1/pip" --isolated --quiet \
            --disable-pip-version-check --no-input install --no-index --no-cache-dir --find-links "$here/wheels" "cyoloctl==$version" ||
            fail 'the wheels of this bundle do not fit this Python or this machine (see above)'
        "$release/bin/cyoloctl" --version >/dev/null || fail 'what was installed does not run'
        mkdir "$release/bundle"
        for each in "$here"/*; do
            [ "${each##*/}" = wheels ] || [ "${each##*/}" = SHA256SUMS ] || cp -R "$each" "$release/bundle/"
        done
        cp "$here/SHA256SUMS" "$release/bundle/" # last: from here on the release is whole
        trap - EXIT INT TERM HUP
    fi
    was=$(current)
    make_user
    switch_to "$version"
    forget_older
    say "cyoloctl $version is installed: $bin/cyoloctl"
    say "all of its documentation is one page for a browser: $share/doc/cyoloctl/manual.html"
    [ -z "$was" ] || { say "$was stays, for install.sh --rollback" && tell_nodes; }
}

# Releases before the previous one go, but for one with which a node still runs.
forget_older() {
    for old in "$prefix"/*/bundle; do
        old=${old%/bundle}
        case ${old##*/} in
            "$(current)" | "$(previous)" | current | previous) continue ;;
        esac
        if in_use "$old"; then say "$old is in use and stays"; else rm -rf "$old"; fi
    done
}

rollback() {
    alone
    to=$(previous)
    if [ -z "$to" ] || [ "$to" = "$(current)" ] || [ ! -x "$prefix/$to/bin/cyoloctl" ]; then fail "there is no release to go back to in $prefix"; fi
    switch_to "$to"
    say "cyoloctl $to is the current release again"
    tell_nodes
}

uninstall() {
    [ -L "$prefix/current" ] || fail "nothing is installed in $prefix"
    alone
    for release in "$prefix"/*/bundle; do
        ! in_use "${release%/bundle}" ||
            fail "a node runs from $prefix: stop it first (systemctl disable --now cyoloctl@NAME, or cyoloctl node stop)" 4
    done
    : >"$prefix/wanted"
    withdraw
    rm -f "$prefix/installed"
    forget_enabled
    for release in "$prefix"/*/bundle; do
        case ${release%/bundle} in */current | */previous) ;; *) rm -rf "${release%/bundle}" ;; esac
    done
    rm -f "$prefix/current" "$prefix/previous"
    rmdir --ignore-fail-on-non-empty "$prefix" 2>/dev/null || true
    reload_units
    say "cyoloctl is removed from $prefix"
    [ "$system" = no ] || say 'the data of nodes in /var/lib/cyoloctl and the user cyoloctl stay'
}

"$action"
