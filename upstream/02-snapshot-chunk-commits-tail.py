r"""A snapshot chunk commits the follower's own, unverified log entries.

pysyncobj 0.3.17.

Expected: a follower moves its commit index only over entries that the leader has shown to match.
Observed: each message of a snapshot transfer carries the leader's commit index, and the follower takes
    min(that, the end of its own log).  A former leader with a tail that nobody else has commits the tail,
    applies it and tells its callers SUCCESS; then the snapshot replaces its state.
Cause: syncobj.py, end of the `append_entries` branch of SyncObj.__onMessageReceived: reached by messages
    with `serialized`, which say nothing about the log.
Change: only messages with prevLogIdx may move the commit index beyond what the installed snapshot covers.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1023,6 +1023,11 @@
                 if self.__serializer.setTransmissionData(serialized):
                     self.__loadDumpFile(clearJournal=True)
                     self.__sendNextNodeIdx(node, success=True)
+                else:
+                    leaderCommitIndex = self.__raftCommitIndex
+
+            else:
+                leaderCommitIndex = self.__raftCommitIndex

             # If the log was truncated below the commit index, don't persist a commit
             # index covering entries that are no longer the committed ones.
"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory(), logCompactionBatchSize=64)
cluster.elect("c")
cluster.write("c", "first")
cluster.run(0.5)
cluster.isolate("c")
tail = [cluster.propose("c", f"tail{n}") for n in range(6)]
print("c is cut off with six commands that nobody else has")
cluster.elect("a", "b")
cluster.write("a", *[f"good{n:02}" for n in range(20)])
cluster.compact("a")
cluster.run(0.3)
cluster.heal()
for _ in range(100):  # the transfer takes many chunks, and c ticks after each
    cluster.now += 0.02
    cluster.tick("a", "b")
    for source, target in ("ab", "ba", "ac", "ca", "bc", "cb"):
        cluster.deliver(source, target, tick=True)
told = [answer.item for answer in tail if answer.ok]
print("c's callers were told success for", told, "; a has", [i for i in cluster.state("a") if "tail" in i])
verdict(
    any(item not in cluster.state("a") for item in told),
    "commands were acknowledged that only the former leader ever had",
    "the tail was replaced and never acknowledged",
)
