UPDATE persons p SET last_seen_at = s.last_seen_at
    FROM people_seen s WHERE s.person_id = p.id AND s.last_seen_at > p.last_seen_at;
DROP TABLE people_seen;
