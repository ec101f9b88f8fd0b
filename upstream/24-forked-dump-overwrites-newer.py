r"""A dump that a forked child is still writing overwrites a newer one that was installed meanwhile.

pysyncobj 0.3.17, fullDumpFile, useFork=True (the default).

Expected: the dump file never goes back.
Observed: the child renames its file into place whenever it is ready, also after a snapshot from the leader
    was installed.  The journal begins behind the installed one by then: after a restart, the entries between
    are missing, and the journal is cleared (05-boot-empties-the-journal.py).
Cause: serializer.py, Serializer.setTransmissionData.
Change: end the child before the received file is renamed.

--- a/pysyncobj/serializer.py
+++ b/pysyncobj/serializer.py
@@ -1,5 +1,6 @@
 import os
 import gzip
+import signal
 import logging
 import pysyncobj.pickle as pickle

@@ -194,6 +195,10 @@
         if isLast:
             self.__incomingTransmissionFile.close()
             self.__incomingTransmissionFile = None
+            if self.__pid > 0:
+                os.kill(self.__pid, signal.SIGKILL)
+                os.waitpid(self.__pid, 0)
+                self.__pid = 0
             try:
                 atomicReplace(tmpFile, self.__fileName)
             except:
"""

import os

from harness import temporary_directory, verdict
from pysyncobj.serializer import SERIALIZER_STATE, Serializer


class Slow:
    """Pickling it takes until the parent writes a byte."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def __reduce__(self):
        os.read(self.descriptor, 1)
        return str, ("older",)


directory = temporary_directory()
leader = Serializer(str(directory / "leader"), 2**16, False, None, None, None)
leader.serialize("newer", 9)
follower = Serializer(str(directory / "follower"), 2**16, True, None, None, None)
wait, go = os.pipe()
follower.serialize(Slow(wait), 5)
follower.setTransmissionData(((directory / "leader").read_bytes(), True, False))
follower.setTransmissionData((b"", False, True))
print("installed from the leader:", follower.deserialize())
os.write(go, b".")
while follower.checkSerializing()[0] == SERIALIZER_STATE.SERIALIZING:
    pass
found = follower.deserialize()
print("after the child has ended:", found)
verdict(found == "older", "the older dump is on disk", "the newer dump is on disk")
