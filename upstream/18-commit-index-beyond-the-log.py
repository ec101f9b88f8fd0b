r"""A stored commit index beyond the end of the journal commits entries that nobody else has.

pysyncobj 0.3.17, journalFile.

Expected: a commit index above the log's end is taken for the log's end.
Observed: the meta file is written by rename once a second, the journal is not synced.  A power loss may leave
    a commit index ahead of the entries.  What a leader appends then is at once below the commit index: it
    is applied and acknowledged before it was sent.
Cause: syncobj.py, SyncObj.__init__ (a clamp exists, in __loadDumpFile only).
Change: clamp where it is read.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -173,7 +173,7 @@
         # term: currentTerm is always >= the term of the last log entry.
         self.__raftCurrentTerm = max(self.__raftLog.getCurrentTerm(), self.__getCurrentLogTerm())
         self.__votedForNodeId = self.__raftLog.getVotedForNodeId()
-        self.__raftCommitIndex = self.__raftLog.getRaftCommitIndex()
+        self.__raftCommitIndex = min(self.__raftLog.getRaftCommitIndex(), self.__getCurrentLogIndex())
         self.__raftLastApplied = 1
         self.__raftNextIndex = {}
         self.__lastResponseTime = {}
"""

from harness import Cluster, temporary_directory, verdict
from pysyncobj.journal import FileJournal

directory = temporary_directory()
cluster = Cluster("abc", directory)
cluster.elect("a")
cluster.write("a", *[f"item{n}" for n in range(10)])
cluster.run(1.5)
cluster.kill("a", "b", "c")
for name in "abc":
    journal = FileJournal(str(directory / f"{name}.journal"))
    journal.deleteEntriesFrom(len(journal) - 5)
    journal._destroy()
print("the power failed, and the last five entries were never written")
cluster.restart("a", "b", "c")
cluster.elect("a")
cluster.isolate("a")
print("a is cut off; its commit index is", cluster.nodes["a"].raftCommitIndex)
answer = cluster.propose("a", "new")
for _ in range(5):
    cluster.now += 0.05
    cluster.tick("a")
there = any("new" in repr(cluster.log(name)) for name in "bc")
print("'new' is acknowledged:", answer.ok, "; another node has it:", there)
verdict(answer.ok and not there, "a command that one node of three has was acknowledged", "it is pending")
