r"""Votes are counted, not collected: one vote that arrives twice is two.

pysyncobj 0.3.17, a transport that may deliver a message twice.  TCPTransport does not by itself, but the
interface promises nothing, and a superseded connection (24-superseded-connection.py) still delivers.

Expected: a candidate counts each member once per term (Raft paper, 5.2).
Observed: every response_vote of the term adds one, whoever sent it.  Two leaders in one term.
Cause: syncobj.py, SyncObj.__onMessageReceived, `self.__votesCount += 1`.
Change: a set of voters; only members of the configuration count.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -157,7 +157,7 @@
         self.__raftState = _RAFT_STATE.FOLLOWER
         self.__raftCurrentTerm = 0
         self.__votedForNodeId = None
-        self.__votesCount = 0
+        self.__votes = set()
         self.__raftLeader = None
         self.__raftElectionDeadline = monotonicTime() + self.__generateRaftTimeout()
         # Set while a leadership transfer (Raft 'TimeoutNow') is pending, to stop
@@ -638,7 +638,7 @@
                 self.__raftLeader = None
                 self.__setState(_RAFT_STATE.CANDIDATE)
                 self.__setCurrentTerm(self.__raftCurrentTerm + 1, self.__selfNode.id)
-                self.__votesCount = 1
+                self.__votes = {self.__selfNode}
                 for node in self.__otherNodes:
                     self.__transport.send(node, {
                         'type': 'request_vote',
@@ -647,7 +647,7 @@
                         'last_log_term': self.__getCurrentLogTerm(),
                     })
                 self.__onLeaderChanged()
-                if self.__votesCount > (len(self.__otherNodes) + 1) / 2:
+                if len(self.__votes) > (len(self.__otherNodes) + 1) / 2:
                     self.__onBecomeLeader()

         if self.__raftState == _RAFT_STATE.LEADER:
@@ -1062,9 +1062,9 @@

         if self.__raftState == _RAFT_STATE.CANDIDATE:
             if message['type'] == 'response_vote' and message['term'] == self.__raftCurrentTerm:
-                self.__votesCount += 1
-
-                if self.__votesCount > (len(self.__otherNodes) + 1) / 2:
+                self.__votes.add(node)
+
+                if len(self.__votes & (self.__otherNodes | {self.__selfNode})) > (len(self.__otherNodes) + 1) / 2:
                     self.__onBecomeLeader()

         if self.__raftState == _RAFT_STATE.LEADER:
"""  # noqa: E501  # lines of the vendor

from harness import Cluster, verdict

cluster = Cluster("abcde")
cluster.campaign("a")
cluster.isolate("a", "b")
cluster.deliver("a", "b")
(vote,) = [message for message in cluster.queues["b", "a"] if message["type"] == "response_vote"]
for _ in range(3):
    cluster.inject("b", "a", vote)
term = cluster.nodes["a"].raftCurrentTerm
print("a got the vote of b three times in term", term, "and leads:", cluster.leads("a"))
while cluster.nodes["c"].raftCurrentTerm < term:
    cluster.elect("c", "d", "e")
both = cluster.leads("a") and cluster.leads("c") and cluster.nodes["c"].raftCurrentTerm == term
verdict(both, f"a and c lead term {term}", "one vote is one vote")
