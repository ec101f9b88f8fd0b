r"""append_entries cuts entries that match: acknowledged commands are lost.

pysyncobj 0.3.17, FIFO connections, no crash of a follower, journals that lose nothing.

Expected: a follower deletes an entry only where it conflicts with the leader's (Raft paper, figure 2,
    AppendEntries, rule 3).  What it has acknowledged stays.
Observed: everything after prevLogIdx is deleted, matching or not, and the message's entries are added.  Two
    late `reset` answers make the leader send the same suffix twice, in several messages.  The follower has
    acknowledged the whole suffix when the first message of the second copy arrives: all that is behind that
    message is gone.  If the leader dies now, acknowledged commands are lost for good.  Without any failure, a
    load test logs "truncating already-applied log entries".
Cause: syncobj.py, SyncObj.__onMessageReceived, `if len(prevEntries) > 1`.
Change: skip the entries that are there already; delete from the first one that differs.  The commit index
    must then be limited by the last entry that this message has shown to match, no longer by the log's end.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -988,7 +988,16 @@
                 if prevEntries[0][2] != prevLogTerm:
                     self.__sendNextNodeIdx(node, nextNodeIdx = prevLogIdx, success = False, reset=True)
                     return
-                if len(prevEntries) > 1:
+                # Skip the entries that are here already: more may follow them (figure 2, rule 3).
+                lastVerifiedIdx = newEntries[-1][1] if newEntries else prevLogIdx
+                matching = 0
+                while matching < min(len(newEntries), len(prevEntries) - 1) and \
+                        newEntries[matching][2] == prevEntries[matching + 1][2]:
+                    matching += 1
+                newEntries = newEntries[matching:]
+                prevEntries = prevEntries[matching:]
+                deleteFrom = prevLogIdx + matching + 1
+                if newEntries and len(prevEntries) > 1:
                     # rollback cluster changes
                     if self.__conf.dynamicMembershipChange:
                         for entry in reversed(prevEntries[1:]):
@@ -996,12 +1005,12 @@
                             if clusterChangeRequest is not None:
                                 self.__doChangeCluster(clusterChangeRequest, reverse=True)

-                    if prevLogIdx + 1 <= self.__raftLastApplied:
+                    if deleteFrom <= self.__raftLastApplied:
                         logger.critical(
                             'truncating already-applied log entries from index %d '
                             '(last applied: %d) - state machine may have diverged from '
-                            'other cluster members', prevLogIdx + 1, self.__raftLastApplied)
-                    self.__deleteEntriesFrom(prevLogIdx + 1)
+                            'other cluster members', deleteFrom, self.__raftLastApplied)
+                    self.__deleteEntriesFrom(deleteFrom)
                 for entry in newEntries:
                     self.__raftLog.add(*entry)

@@ -1012,11 +1021,8 @@
                         if clusterChangeRequest is not None:
                             self.__doChangeCluster(clusterChangeRequest)

-                nextNodeIdx = prevLogIdx + 1
-                if newEntries:
-                    nextNodeIdx = newEntries[-1][1] + 1
-
-                self.__sendNextNodeIdx(node, nextNodeIdx=nextNodeIdx, success=True)
+                leaderCommitIndex = min(leaderCommitIndex, lastVerifiedIdx)
+                self.__sendNextNodeIdx(node, nextNodeIdx=lastVerifiedIdx + 1, success=True)

             # Install snapshot
             elif serialized is not None:
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.5)
cluster.isolate("c")
print("c is cut off; a and b are a majority.  Six commands of 40 kB: several messages")
answers = [cluster.propose("a", letter * 40_000) for letter in "pqrstu"]
cluster.period("a")
cluster.reconnect("a", "b")  # the connection breaks with them in flight
cluster.period("a")
cluster.period("a")  # two empty messages ahead of b's log
cluster.deliver("a", "b")
print("b refuses both")
for _ in range(2):
    cluster.deliver("b", "a", 1)
    cluster.period("a")
print("a has sent the suffix twice, in", len(cluster.queues["a", "b"]), "messages")
for _ in range(len(cluster.queues["a", "b"])):
    if all(answer.ok for answer in answers):
        break
    cluster.deliver("a", "b", 1)
    cluster.deliver("b", "a")
    cluster.tick("a")
print("acknowledged:", sum(answer.ok for answer in answers), "of 6; b's log ends at", cluster.log("b")[-1][1])
cluster.deliver("a", "b", 1)
print("one more message arrives; b's log ends at", cluster.log("b")[-1][1])
cluster.kill("a")
cluster.heal()
cluster.elect("b", "c")
cluster.run(1.0)
lost = [answer.item[0] for answer in answers if answer.ok and answer.item not in cluster.state("b")]
verdict(bool(lost), f"acknowledged commands {lost} are on no running node", "all six are there")
