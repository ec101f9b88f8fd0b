r"""Acknowledgements carry no term: old ones count in a new term.

pysyncobj 0.3.17, five nodes, FIFO connections that stay up.

Expected: answers to append_entries carry the term (Raft paper, figure 2); a leader ignores those of another.
Observed: `next_node_idx` has an index only.  b acknowledges entries of term 1; the answers are stalled.
    Meanwhile another leader cuts these entries from a's log, and a is elected again.  Now the old answers
    arrive, and a takes them for acknowledgements of what it has at the same indexes today.
    For the same reason a deposed leader is never told: followers ignore its lower term in silence.
Cause: syncobj.py, SyncObj.__sendNextNodeIdx and the `next_node_idx` branch of __onMessageReceived.
Change: send the term; ignore answers of another one, step down on a higher one; answer append_entries of a
    lower term with its own term.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -942,6 +942,9 @@
                         'term': message['term'],
                     })

+        if message['type'] == 'append_entries' and message['term'] < self.__raftCurrentTerm:
+            self.__sendNextNodeIdx(node)  # tells a deposed leader the term, nothing else
+
         if message['type'] == 'append_entries' and message['term'] >= self.__raftCurrentTerm:
             if message['term'] > self.__raftCurrentTerm:
                 # A new leader at a higher term supersedes any pending transfer.
@@ -1067,8 +1070,14 @@
                 if self.__votesCount > (len(self.__otherNodes) + 1) / 2:
                     self.__onBecomeLeader()

+        if message['type'] == 'next_node_idx' and message['term'] > self.__raftCurrentTerm:
+            self.__setCurrentTerm(message['term'], None)
+            self.__setState(_RAFT_STATE.FOLLOWER)
+            self.__raftLeader = None
+            self.__raftElectionDeadline = monotonicTime() + self.__generateRaftTimeout()
+
         if self.__raftState == _RAFT_STATE.LEADER:
-            if message['type'] == 'next_node_idx':
+            if message['type'] == 'next_node_idx' and message['term'] == self.__raftCurrentTerm:
                 reset = message['reset']
                 nextNodeIdx = message['next_node_idx']
                 success = message['success']
@@ -1100,6 +1109,7 @@
             nextNodeIdx = self.__getCurrentLogIndex() + 1
         self.__transport.send(node, {
             'type': 'next_node_idx',
+            'term': self.__raftCurrentTerm,
             'next_node_idx': nextNodeIdx,
             'reset': reset,
             'success': success,
"""

from harness import Cluster, verdict

cluster = Cluster("abcde")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.5)
cluster.isolate("a", "b")
cluster.held.add(("b", "a"))
for n in range(8):
    cluster.propose("a", f"old{n}")
cluster.period("a")
cluster.deliver("a", "b", tick=True)
cluster.held.add(("a", "b"))
print("b has acknowledged eight entries to a; the answers are on their way")
cluster.elect("c", "d", "e")
cluster.period("c")
for _ in range(3):
    cluster.exchange("c", "d", "e")
cluster.heal(("a", "c"))
cluster.period("c")
for _ in range(8):
    cluster.exchange("a", "c")
    cluster.now += 0.02
    cluster.tick("c")
print("a follows c, which has cut the eight; a's log ends at", cluster.log("a")[-1][1])
cluster.isolate("c")
cluster.heal(("a", "d"), ("a", "e"))
cluster.elect("a", "d", "e")
cluster.cut("a", "e")
answer = cluster.propose("a", "new")
for _ in range(8):
    cluster.tick("a")
    cluster.exchange("a", "d")
    cluster.now += 0.03
print("a and d have the new command, two of five; acknowledged:", answer.ok)
cluster.deliver("b", "a")
cluster.tick("a")
print("the old answers arrive at a; acknowledged:", answer.ok)
cluster.kill("a", "d")
cluster.held.clear()
cluster.heal()
cluster.run(0.5)
cluster.elect("e", "b", "c")
cluster.run(1.0)
lost = answer.ok and "new" not in cluster.state("e")
verdict(lost, "the acknowledged command is on no running node", "two of five acknowledge nothing")
