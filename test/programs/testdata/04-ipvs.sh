# prints: 10.9.9.9:80 rr
# needs modules
ipvsadm -A -t 10.9.9.9:80 -s rr
ipvsadm -a -t 10.9.9.9:80 -r 10.0.0.2:8080 -m
ipvsadm -Ln | sed -n 's/^TCP *//p' | sed 's/ *$//'
ipvsadm -C
