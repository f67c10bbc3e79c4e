#!/bin/sh
# As the official image's entrypoint: makes the database from the environment at a first start.
set -e
data=$("$@" --user=mysql --verbose --help 2>/dev/null | awk '$1 == "datadir" { print $2; exit }')
user=${MARIADB_USER:-$MYSQL_USER}
password=${MARIADB_PASSWORD:-$MYSQL_PASSWORD}
database=${MARIADB_DATABASE:-$MYSQL_DATABASE}
root=${MARIADB_ROOT_PASSWORD:-$MYSQL_ROOT_PASSWORD}
install -d -o mysql -g mysql "$data" /run/mysqld
if [ ! -d "$data/mysql" ]; then
    : "${root:?MARIADB_ROOT_PASSWORD must be set}"
    mariadb-install-db --user=mysql --datadir="$data" --skip-test-db --auth-root-authentication-method=normal
    # A first server that is not reached from outside, as theirs; it says that it is ready, too.
    "$@" --user=mysql --skip-networking &
    until mariadb-admin ping --silent; do sleep 0.1; done
    mariadb <<SQL
CREATE DATABASE \`$database\`;
CREATE USER '$user'@'%' IDENTIFIED BY '$password';
GRANT ALL ON \`$database\`.* TO '$user'@'%';
ALTER USER root@localhost IDENTIFIED BY '$root';
SQL
    mariadb-admin --password="$root" shutdown
    wait
fi
exec "$@" --user=mysql --bind-address='*'
