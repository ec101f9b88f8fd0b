r"""A process that is killed inside FileJournal.deleteEntriesTo loses most of its journal.

pysyncobj 0.3.17, journalFile.

Expected: compaction removes a prefix; what is behind it stays, whenever the process dies.
Observed: the file is emptied, then the remaining entries are written again one by one.
Cause: journal.py, FileJournal.deleteEntriesTo.
Change: write the remaining entries to a second file, sync it and rename it into place.

--- a/pysyncobj/journal.py
+++ b/pysyncobj/journal.py
@@ -187,6 +187,7 @@
 class FileJournal(Journal):

     def __init__(self, journalFile):
+        self.__path = journalFile
         self.__journalFile = ResizableFile(journalFile, defaultContent=self.__getDefaultHeader())
         self.__journal = []
         self.__metaStorer = MetaStorer(journalFile + '.meta')
@@ -251,9 +252,17 @@

     def deleteEntriesTo(self, entryTo):
         journal = self.__journal[entryTo:]
+        self.__journalFile._destroy()
+        newPath = self.__path + '.new'
+        if os.path.exists(newPath):
+            os.remove(newPath)
+        self.__journalFile = ResizableFile(newPath, defaultContent=self.__getDefaultHeader())
         self.clear()
         for entry in journal:
             self.add(*entry)
+        self.__journalFile._destroy()
+        shutil.move(newPath, self.__path)
+        self.__journalFile = ResizableFile(self.__path)

     def _destroy(self):
         self.__journalFile._destroy()
"""

import os

from harness import temporary_directory, verdict
from pysyncobj.journal import FileJournal

path = str(temporary_directory() / "journal")
journal = FileJournal(path)
for index in range(1, 61):
    journal.add(b"command", index, 1)
kept = len(journal) - 10
if os.fork() == 0:  # a process that is killed while it writes the fourth of the remaining entries
    add, calls = FileJournal.add, []

    def dying_add(self, *entry):
        calls.append(entry)
        if len(calls) == 4:
            os._exit(9)
        add(self, *entry)

    FileJournal.add = dying_add
    FileJournal(path).deleteEntriesTo(10)
    os._exit(0)
os.wait()
left = len(FileJournal(path))
print("the journal had 60 entries and 10 were to go; after the kill it has", left)
verdict(left < kept, f"{kept - left} entries are lost", "nothing that was to stay is lost")
