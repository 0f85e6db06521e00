# prints: nested
# prints: 0% packet loss
docker run --rm --memory 32m box /bin/busybox sh -c '/bin/busybox echo nested'
docker run -d --name server -p 8080:80 box /bin/busybox sleep 1000 >/dev/null
address=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' server)
docker run --rm box /bin/busybox ping -q -c 2 $address | grep -o '0% packet loss'
docker rm -f server >/dev/null
