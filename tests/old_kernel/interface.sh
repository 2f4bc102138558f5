
# A workload behind w1, servers behind up0, this machine between them.
ip netns add far; ip netns add inside
ip link add up0 type veth peer name eth0 netns far
ip link add w1 type veth peer name eth0 netns inside
ip addr add 203.0.113.1/24 dev up0; ip link set up0 up
ip addr add 10.7.1.1/24 dev w1; ip link set w1 up
for address in 203.0.113.10 203.0.113.11; do ip -n far addr add $address/24 dev eth0; done
ip -n far link set eth0 up; ip -n far route add default via 203.0.113.1
ip -n inside addr add 10.7.1.2/24 dev eth0; ip -n inside link set eth0 up; ip -n inside link set lo up
ip -n inside route add default via 10.7.1.1
echo 1 >/proc/sys/net/ipv4/ip_forward
ip netns exec far python3 -m http.server 80 >/dev/null 2>&1 &
dnsmasq --no-resolv --no-hosts --bind-interfaces --listen-address=203.0.113.1 --user=root --conf-file=/dev/null \
    --address=/allowed.example/203.0.113.10 --address=/denied.example/203.0.113.11
mkdir -p /etc/netns/inside
echo 'nameserver 203.0.113.1' >/etc/netns/inside/resolv.conf
cat >/tmp/host.yaml <<END
endpoints:
- {name: runner, namespace: ci, interface: w1, addresses: [10.7.1.2], labels: {app: runner}}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {name: runners, namespace: ci}
  spec:
    podSelector: {}
    egress:
    - name: web
      to: [{domainNames: [allowed.example]}]
      ports: [{protocol: TCP, port: 80}]
END
"$bin/nameward-resolver" --feed unix:/run/nameward/feed --upstream 203.0.113.1 &
"$bin/nameward-enforcer" --feed unix:/run/nameward/feed --config /tmp/host.yaml --api unix:/run/nameward/api.sock &
enforcer=$!
api() { curl -sS --unix-socket /run/nameward/api.sock "http://localhost$1"; }
tries=0
until api /v1/endpoints 2>/dev/null | grep -q '"generation":1'; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { echo "no rules: $(api /v1/endpoints)"; exit 1; }
    sleep 0.2
done
echo attached: $({ tc filter show dev w1 ingress; tc filter show dev w1 egress; } | grep -o 'pod_[a-z]*' | sort -u)

ask() { ip netns exec inside curl -sS --max-time 20 -o /dev/null -w "$1: %{http_code}\n" "$2"; }
# A grant that an emulated processor does not make in 250 ms is a SERVFAIL: asked again.
for try in 1 2 3 4 5 6 7 8; do ask allowed http://allowed.example/ && break; done
ask name http://denied.example/ || echo "denied name: $?"
ask address http://203.0.113.11/ || echo "denied address: $?"
api /v1/decisions

kill $enforcer; wait $enforcer || true
ask fenced http://203.0.113.11/ || echo "still denied: $?"

# The same, judged on the workload's side.
echo 'settings: {delivery: Peer}' >>/tmp/host.yaml
"$bin/nameward-enforcer" --feed unix:/run/nameward/feed --config /tmp/host.yaml --api unix:/run/nameward/api.sock &
enforcer=$!
tries=0
until api /v1/endpoints 2>/dev/null | grep -q '"generation":2'; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { echo "no rules: $(api /v1/endpoints)"; exit 1; }
    sleep 0.2
done
echo arrivals: $(ip netns exec inside tc filter show dev eth0 ingress | grep -o 'pod_[a-z]*' | sort -u)
for try in 1 2 3 4 5 6 7 8; do ask peer http://allowed.example/ && break; done
kill $enforcer; wait $enforcer || true
"$bin/nameward-enforcer" --remove
echo left: $(ip netns exec inside tc filter show dev eth0 ingress | grep -o 'pod_[a-z]*' | sort -u)
ask removed http://203.0.113.11/
