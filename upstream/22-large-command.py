r"""Some large commands crash the handler of every follower.

pysyncobj 0.3.17, default settings.

Expected: a command larger than appendEntriesBatchSizeBytes is sent in chunks.
Observed: whether a chunk is the last one is decided by the length of the command, the chunks are cut from
    the pickled entry, which is a little longer.  If the last chunk holds only that little, the one before is
    called the last and unpickled too early: EOFError in the followers' message handler, in the middle of
    reading from the connection, at each such command.
Cause: syncobj.py, SyncObj.__sendAppendEntries, `pos + batchSizeBytes >= len(entries[0][0])`.
Change: compare with the length of what is cut.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1278,7 +1278,7 @@
                             currData = entry[pos:pos + batchSizeBytes]
                             if pos == 0:
                                 transmission = 'start'
-                            elif pos + batchSizeBytes >= len(entries[0][0]):
+                            elif pos + batchSizeBytes >= len(entry):
                                 transmission = 'finish'
                             else:
                                 transmission = 'process'
"""

from harness import Cluster, engine, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
size = 2**17  # two batches, with the bytes that the pickled command adds
size -= len(b"\0" + engine.pickle.dumps((0, ("." * size,)))) - size
answer = cluster.propose("a", "." * size)
cluster.run(5.0)
errors = cluster.errors["b"]
print(f"a command of {size} bytes; acknowledged:", answer.ok, "; b's handler raised:", errors)
verdict(bool(errors), "the followers' handlers raise", "it was replicated")
