CREATE SOURCE tür (größe DOUBLE) WITH (connector = 'http');
CREATE MATERIALIZED VIEW v AS
	SELECT 'Öl' AS öl, grösse FROM tür;
