r"""A torn meta file reads as term 0 and no vote: a node votes twice in one term.

pysyncobj 0.3.17, journalFile.

Expected: term and vote survive a crash, or the node does not start (Raft paper, figure 2, persistent state).
Observed: the meta file is renamed into place without fsync, so a power loss may leave it empty or torn, and
    a file that does not load is taken for a new node's.
Cause: journal.py, MetaStorer.storeMeta and MetaStorer.getMeta.
Change: fsync the file before the rename and the directory after it; only a file that does not exist is empty.

--- a/pysyncobj/journal.py
+++ b/pysyncobj/journal.py
@@ -150,18 +150,23 @@
         self.__path = path

     def getMeta(self):
-        meta = {}
-        try:
-            meta = loads(open(self.__path, 'rb').read())
-        except:
-            pass
-        return meta
+        if not os.path.exists(self.__path):
+            return {}
+        with open(self.__path, 'rb') as f:
+            return loads(f.read())

     def storeMeta(self, meta):
         with open(self.__path + '.tmp', 'wb') as f:
             f.write(dumps(meta))
             f.flush()
+            os.fsync(f.fileno())
         shutil.move(self.__path + '.tmp', self.__path)
+        if hasattr(os, 'O_DIRECTORY'):
+            directory = os.open(os.path.dirname(os.path.abspath(self.__path)), os.O_RDONLY | os.O_DIRECTORY)
+            try:
+                os.fsync(directory)
+            finally:
+                os.close(directory)

     def getPath(self):
         return self.__path
"""

from harness import Cluster, temporary_directory, verdict

directory = temporary_directory()
cluster = Cluster("abc", directory)
request = {"type": "request_vote", "term": 7, "last_log_index": 9, "last_log_term": 6}
cluster.inject("a", "b", request)
cluster.kill("b")
(directory / "b.journal.meta").write_bytes(b"")
print("b has voted for a in term 7; the power fails, and the meta file is empty")
try:
    cluster.restart("b")
    cluster.inject("c", "b", request)
except Exception as error:
    print("b refuses to start:", repr(error))
votes = [(target, m["term"]) for source, target, m in cluster.sent if m["type"] == "response_vote"]
print("votes of b:", votes)
verdict(len(votes) > 1, "b voted twice in one term", "b voted once")
