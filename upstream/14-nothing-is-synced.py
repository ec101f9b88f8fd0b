r"""Nothing that FileJournal writes is synced: a power loss takes acknowledged entries and votes.

pysyncobj 0.3.17, journalFile ("Save each record as soon as received").

Expected: entries, term and vote are on disk before a message tells another node of them.
Observed: no fsync and no msync happens until the journal is closed.
Cause: journal.py, FileJournal.add, clear, deleteEntriesFrom, deleteEntriesTo; MetaStorer.storeMeta.
Change: sync after each of them (below, without deleteEntriesTo, see 14-kill-inside-compaction.py).  To keep
    the throughput, sync once per tick instead, before the messages of that tick are sent.  The header is
    written after the record but may reach the disk first: a checksum per record is needed too.

--- a/pysyncobj/journal.py
+++ b/pysyncobj/journal.py
@@ -161,6 +161,7 @@
         with open(self.__path + '.tmp', 'wb') as f:
             f.write(dumps(meta))
             f.flush()
+            os.fsync(f.fileno())
         shutil.move(self.__path + '.tmp', self.__path)

     def getPath(self):
@@ -223,11 +224,13 @@
         self.__journalFile.write(self.__currentOffset, cmdData)
         self.__currentOffset += len(cmdData)
         self.__setLastRecordOffset(self.__currentOffset)
+        self.flush()

     def clear(self):
         self.__journal = []
         self.__setLastRecordOffset(FIRST_RECORD_OFFSET)
         self.__currentOffset = FIRST_RECORD_OFFSET
+        self.flush()

     def __getitem__(self, idx):
         return self.__journal[idx]
@@ -248,6 +251,7 @@
                 self.__setLastRecordOffset(currentOffset)
         self.__currentOffset = currentOffset
         self.__setLastRecordOffset(currentOffset)
+        self.flush()

     def deleteEntriesTo(self, entryTo):
         journal = self.__journal[entryTo:]
"""

import mmap
import os

import pysyncobj.journal
from harness import temporary_directory, verdict

synced = []
fsync = os.fsync


class CountingMap(mmap.mmap):
    def flush(self, *args):
        synced.append("msync")
        return super().flush(*args)


def counting_fsync(descriptor):
    synced.append("fsync")
    fsync(descriptor)


pysyncobj.journal.mmap.mmap, os.fsync = CountingMap, counting_fsync
journal = pysyncobj.journal.FileJournal(str(temporary_directory() / "journal"))
never = []
for what, call in {
    "add": lambda: journal.add(b"command", 2, 1),
    "deleteEntriesFrom": lambda: journal.deleteEntriesFrom(0),
    "setCurrentTerm": lambda: journal.setCurrentTerm(7, "a"),
}.items():
    synced.clear()
    call()
    print(f"{what}: {synced or 'not synced'}")
    never += [] if synced else [what]
verdict(bool(never), f"not synced: {', '.join(never)}", "everything is synced")
