-- The numbers became those of lookup precedence. None of the old ones is among
-- the new, so one statement cannot meet a row twice.
UPDATE rules
   SET type = CASE type WHEN 1 THEN 1000 WHEN 2 THEN 3000 WHEN 3 THEN 4000 WHEN 4 THEN 2000 END
 WHERE type IN (1, 2, 3, 4);
