r"""A snapshot that is older than the follower's log replaces it: acknowledged commands are lost.

pysyncobj 0.3.17.

Expected: a follower that holds the snapshot's last entry keeps what follows it (Raft paper, figure 13, rule
    6), and one that has applied more than the snapshot ignores it.
Observed: the journal is cleared whatever it holds.  A late `reset` answer makes the leader send a dump to a
    follower that has acknowledged more since.  A dump that is older than the follower's own also replaces
    that file, so that the journal no longer fits at the next start.
Cause: syncobj.py, SyncObj.__onMessageReceived ("Install snapshot") and __loadDumpFile(clearJournal=True).
Change: the leader says which entry the dump ends with (after a compaction that is the second entry of its
    log), and a follower that has it skips the transfer.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1020,7 +1020,14 @@

             # Install snapshot
             elif serialized is not None:
-                if self.__serializer.setTransmissionData(serialized):
+                # What the dump covers is here already: it would only take away what follows.
+                dumpIdx, dumpTerm = message['dump_end']
+                known = self.__getEntries(dumpIdx, 1)
+                if dumpIdx <= self.__raftLastApplied or (known and known[0][2] == dumpTerm):
+                    leaderCommitIndex = self.__raftCommitIndex
+                    if serialized[2]:
+                        self.__sendNextNodeIdx(node, nextNodeIdx=dumpIdx + 1, success=True)
+                elif self.__serializer.setTransmissionData(serialized):
                     self.__loadDumpFile(clearJournal=True)
                     self.__sendNextNodeIdx(node, success=True)

@@ -1313,6 +1320,7 @@
                         'term': self.__raftCurrentTerm,
                         'commit_index': self.__raftCommitIndex,
                         'serialized': transmissionData,
+                        'dump_end': self.__raftLog[min(1, len(self.__raftLog) - 1)][1:],
                     }
                     self.__transport.send(node, message)
                     if node not in self.__connectedNodes:
"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory())
cluster.elect("a")
cluster.write("a", "first", "second")
cluster.run(0.5)
cluster.cut("a", "b")
cluster.write("a", *[f"more{n}" for n in range(8)])
cluster.run(0.3, reconnect=False)
cluster.heal(("a", "b"))
cluster.period("a")
cluster.reconnect("a", "b")  # what b has missed was in flight
cluster.period("a")
cluster.period("a")
cluster.isolate("c")
last = cluster.propose("a", "last")
cluster.deliver("a", "b", tick=True)
print("b has refused two messages; the second answer is late")
cluster.deliver("b", "a", 1)
cluster.period("a")
cluster.compact("a")
cluster.deliver("b", "a", 1)
cluster.now += 0.11
suffix = len(cluster.queues["a", "b"])
cluster.tick("a")
cluster.deliver("a", "b", suffix, tick=True)
for _ in range(10):
    if not last.ok:
        cluster.deliver("b", "a")
        cluster.tick("a")
    if not last.ok and not any(message.get("serialized") for message in cluster.queues["a", "b"]):
        cluster.period("a")
        cluster.deliver("a", "b", tick=True)
print("'last' is acknowledged:", last.ok, "; b's log ends at", cluster.log("b")[-1][1])
while any(message.get("serialized") for message in cluster.queues["a", "b"]):
    cluster.deliver("a", "b", 1, tick=True)
print("the snapshot has arrived; b's log ends at", cluster.log("b")[-1][1])
cluster.kill("a")
cluster.heal()
cluster.elect("b", "c")
cluster.run(1.0)
verdict(last.ok and "last" not in cluster.state("b"), "'last' is on no running node", "nothing was lost")
