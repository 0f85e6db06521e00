# prints: openjdk
java -XX:+UseZGC -XX:+UseTransparentHugePages -Xmx128m -version >/tmp/java.log 2>&1 || { cat /tmp/java.log >&2; exit 1; }
JAVA_TOOL_OPTIONS="-XX:+UseG1GC -XX:TieredStopAtLevel=1 -Xmx128m" keytool -genkeypair -alias test -keyalg EC -dname CN=test -keystore /tmp/store \
	-storepass changeit >/tmp/java.log 2>&1 || { cat /tmp/java.log >&2; exit 1; }
java -version 2>&1 | head -n 1 | cut -d' ' -f1
