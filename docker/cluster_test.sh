# shellcheck shell=bash
# Run by bash -euo pipefail -c in the image: two nodes of a cluster with a token, each with an address of its own on loopback.
umask 077
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >/tmp/token
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/tmp/token PROMPTMILL_AGENT_PORT=18266
address=127.0.0.1:16379

start() {
    ray start "$@" --num-cpus=1 --object-store-memory=80000000 >>/tmp/start.log 2>&1 || { cat /tmp/start.log; exit 1; }
}

if healthy 2>/dev/null; then echo "healthy without a node" >&2; exit 1; fi
start --head --node-ip-address=127.0.0.1 --port=16379 --dashboard-host=127.0.0.1 --dashboard-port=18265 \
    --dashboard-agent-listen-port=18266 --min-worker-port=21000 --max-worker-port=21999
start --address=$address --node-ip-address=127.0.0.2 --dashboard-agent-listen-port=18267 \
    --min-worker-port=22000 --max-worker-port=22999
for try in {1..30}; do
    healthy 2>/dev/null && break
    [[ $try != 30 ]] || { echo "the head is not healthy" >&2; exit 1; }
    sleep 1
done

promptmill generate experiment=demo cluster=existing cluster.address=$address cluster.replicas=2 \
    cluster.min_replicas=2 cluster.cpus_per_replica=1 output.path=/outputs/cluster
promptmill verify output.path=/outputs/cluster
RAY_ADDRESS=$address python -c "
import ray
ray.init(log_to_driver=False, logging_level='ERROR')
nodes = [node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']]
assert len(nodes) == 2 and all(address.startswith('127.') for address in nodes), nodes
print('nodes:', *sorted(nodes))
"

# The job server takes a job with the token, and none without it.
submit=(ray job submit --address=http://127.0.0.1:18265)
"${submit[@]}" -- promptmill generate experiment=demo cluster=existing output.path=/outputs/cluster | grep 'is complete'
for wrong in "RAY_AUTH_MODE=disabled" "RAY_AUTH_TOKEN=0000"; do
    if env "$wrong" "${submit[@]}" -- true >/tmp/refused.log 2>&1; then echo "taken with $wrong" >&2; exit 1; fi
    grep -qiE '40[13]|authenticat' /tmp/refused.log || { cat /tmp/refused.log; exit 1; }
done

# What a pod's preStop hook runs ends a job's driver, which says so and leaves what it has committed.
"${submit[@]}" --submission-id=stopped --no-wait -- promptmill generate experiment=demo cluster=existing \
    cluster.cpus_per_replica=1 sampling.max_tokens=120 sampling.n=20 output.path=/outputs/stopped >/dev/null
for _ in {1..60}; do
    if ls /outputs/stopped/data/*.parquet >/dev/null 2>&1; then break; fi
    sleep 0.5
done
SECONDS=0
stop-jobs
[[ $SECONDS -le 20 ]] || { echo "stop-jobs took $SECONDS s" >&2; exit 1; }
for _ in {1..20}; do
    ray job logs --address=http://127.0.0.1:18265 stopped >/tmp/stopped.log 2>&1
    if grep 'stopped by SIGTERM' /tmp/stopped.log; then break; fi
    sleep 0.5
done
grep -q 'stopped by SIGTERM' /tmp/stopped.log || { cat /tmp/stopped.log; exit 1; }
test ! -e /outputs/stopped/_job/manifest.json
ray stop --grace-period=5 >/dev/null 2>&1 || true
