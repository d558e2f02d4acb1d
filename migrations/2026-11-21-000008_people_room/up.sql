-- Room on each page for another version of a row: the time somebody was last seen is written every
-- ten minutes, and where the new version finds no room beside the old one, every index gets an entry.
ALTER TABLE persons SET (fillfactor = 80);
