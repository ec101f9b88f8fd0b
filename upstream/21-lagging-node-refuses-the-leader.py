r"""A node that was away while the others were replaced can never follow again.

pysyncobj 0.3.17, dynamicMembershipChange=True.

Expected: a node accepts append_entries from a leader that is not in its own, older configuration (Raft
    dissertation, 4.1).
Observed: a, b and c become c, d and e while c is away.  c knows a and b only: it neither dials nor accepts d
    and e, so it never gets the entries that would introduce them.  If d or e dies, c, a voter, is needed
    for a majority and does not take part: the cluster stops for good.
Cause: transport.py, TCPTransport._onIncomingMessageReceived (disconnects who is not in _nodeAddrToNode).
Change: needs a notion of who is a peer that does not come from the log, and is not a few lines.
    Authenticate connections (25-pickle-from-strangers.py), accept every authenticated peer that no committed
    entry has removed, and let the configuration decide only whose votes and acknowledgements count.
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.3)
cluster.isolate("c")
for name in "de":
    cluster.cuts.add(frozenset(("c", name)))
    cluster.join("a", name)
cluster.run(0.5)
cluster.elect("d")
cluster.run(0.3)
for name in "ab":
    removed = cluster.member("d", "remove", name)
    cluster.run_until(lambda answer=removed: answer.ok)
cluster.kill("a", "b")
cluster.write("d", "second")
print("the voters are", cluster.voters("d"), "; c knows", cluster.voters("c"), "and is reachable again")
cluster.heal()
follows = cluster.run_until(lambda: cluster.state("c") == ["first", "second"], within=10)
print("ten seconds later c has", cluster.state("c"))
verdict(not follows, "c does not follow the leader of its own cluster", "c follows")
