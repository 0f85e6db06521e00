# prints: 5050
install -d -o postgres /tmp/pg
bin=/usr/lib/postgresql/15/bin
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
as $bin/initdb -D /tmp/pg/data >/tmp/initdb.log 2>&1 || { cat /tmp/initdb.log >&2; exit 1; }
as $bin/pg_ctl -D /tmp/pg/data -o "-k /tmp/pg" -t 600 -w -l /tmp/pg/log start >/dev/null || { cat /tmp/pg/log >&2; exit 1; }
as psql -h /tmp/pg -d postgres -At -c 'create table t as select generate_series(1, 100) i' -c 'select sum(i) from t' | tail -n 1
as $bin/pg_ctl -D /tmp/pg/data -w -m immediate stop >/dev/null
