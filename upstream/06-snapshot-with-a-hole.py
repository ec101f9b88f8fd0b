r"""A connection that breaks inside a snapshot transfer leaves a hole in the snapshot.

pysyncobj 0.3.17.

Expected: a transfer belongs to a connection; on the next one it begins again.
Observed: the leader cancels a transfer only when it notices, while sending, that the node is away.  A
    connection that is replaced between two of its rounds goes unnoticed: it sends the next chunk, and the
    chunks that were in flight are missing in the file that the follower installs.  The load fails, the
    follower answers `success` with the end of its own log, and the leader counts it
    (12-unreadable-dump-is-ignored.py).
Cause: syncobj.py, SyncObj.__onNodeDisconnected does not cancel the transfer.
Change: cancel it there.  Better: give chunks the snapshot's index, their offset, its size and digest.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1128,6 +1128,7 @@

     def __onNodeDisconnected(self, node):
         self.__connectedNodes.discard(node)
+        self.__serializer.cancelTransmisstion(node)

     def __getCurrentLogIndex(self):
         return self.__raftLog[-1][1]
"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory(), logCompactionBatchSize=64)
cluster.elect("c")
cluster.write("c", "first")
cluster.run(0.5)
cluster.isolate("c")
for n in range(40):
    cluster.propose("c", f"tail{n}")
print("c is cut off with 40 commands that nobody else has")
cluster.elect("a", "b")
cluster.write("a", *[f"good{n:02}" for n in range(15)])
cluster.compact("a")
cluster.run(0.3)
cluster.isolate("b")
last = cluster.propose("a", "last")
cluster.heal(("a", "c"))
cluster.clock_step = 0.03  # a slow machine: a few chunks in each round
broken = False
for _ in range(60):
    cluster.now += 0.05
    cluster.tick("a")
    queue = cluster.queues["a", "c"]
    if not broken and any(message.get("serialized") for message in queue):
        while not queue[0].get("serialized"):
            cluster.deliver("a", "c", 1, tick=True)
        cluster.deliver("a", "c", 1, tick=True)
        print("the first chunk has arrived; the connection breaks with", len(queue), "more in flight")
        cluster.reconnect("a", "c")
        broken = True
    cluster.deliver("a", "c", tick=True)
    cluster.deliver("c", "a")
    if last.ok:
        break
held = "last" in repr(cluster.log("c")) or "last" in cluster.state("c")
print("'last' was acknowledged:", last.ok, "; c, the only node that a reaches, holds it:", held)
verdict(last.ok and not held, "a command that one node of three has was acknowledged", "c got it all")
