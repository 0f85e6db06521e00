# prints: PONG
# prints: OK
# prints: value
redis-server --save '' --dir /tmp --logfile /tmp/redis.log --daemonize yes
redis() { redis-cli "$@"; }
for try in $(seq 100); do if redis ping >/dev/null 2>&1; then break; fi; sleep 0.2; done
redis ping
redis set key value
redis get key
redis shutdown nosave || true
! grep -i warning /tmp/redis.log >&2
