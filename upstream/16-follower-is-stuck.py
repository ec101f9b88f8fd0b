r"""A follower with a long conflicting tail is never repaired.

pysyncobj 0.3.17, FIFO connections.

Expected: nextIndex goes down with each refusal until the logs match (Raft paper, 5.3).
Observed: the leader sends what it has in several messages.  The first is refused and lowers nextIndex; the
    following ones are refused too and set it again, to the index in front of themselves, which is higher.
    The leader sends the same messages again and again, permanently.
Cause: syncobj.py, SyncObj.__onMessageReceived, the two refusals with reset=True.
Change: every refusal asks for the entry behind the commit index.  What is committed matches, and all
    answers ask for the same.  (Apply 01-append-cuts-matching-entries.py first: then the longer suffix does
    no harm.)

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -982,11 +982,10 @@
                 prevLogIdx = message['prevLogIdx']
                 prevLogTerm = message['prevLogTerm']
                 prevEntries = self.__getEntries(prevLogIdx)
-                if not prevEntries:
-                    self.__sendNextNodeIdx(node, success=False, reset=True)
-                    return
-                if prevEntries[0][2] != prevLogTerm:
-                    self.__sendNextNodeIdx(node, nextNodeIdx = prevLogIdx, success = False, reset=True)
+                if not prevEntries or prevEntries[0][2] != prevLogTerm:
+                    # What is committed matches: all refusals ask for the same entry.
+                    committed = max(self.__raftCommitIndex, self.__raftLastApplied)  # a dump may be ahead
+                    self.__sendNextNodeIdx(node, nextNodeIdx=committed + 1, reset=True)
                     return
                 if len(prevEntries) > 1:
                     # rollback cluster changes
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("c")
cluster.write("c", "first")
cluster.run(0.5)
cluster.isolate("c")
for n in range(9):
    cluster.propose("c", str(n) * 40_000)
print("c is cut off with nine commands of 40 kB that nobody else has")
cluster.elect("a", "b")
for n in range(9):
    cluster.propose("a", "abcdefghi"[n] * 40_000)
cluster.run(0.5)
cluster.heal(("a", "c"))
cluster.period("a")
cluster.cut("a", "c")  # with everything in flight
cluster.heal()
repaired = cluster.run_until(lambda: len(cluster.state("c")) == 10, within=20)
refusals = sum(source == "c" and message.get("reset", False) for source, _, message in cluster.sent)
print("after 20 seconds c has", len(cluster.state("c")), "of 10 items; it refused", refusals, "messages")
verdict(not repaired, "the follower does not catch up", "the follower has caught up")
