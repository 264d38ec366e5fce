CREATE TABLE client_keys (
	digest TEXT NOT NULL, 
	name TEXT NOT NULL, 
	models TEXT NOT NULL, 
	endpoints TEXT NOT NULL, 
	requests_per_minute BIGINT, 
	concurrent BIGINT, 
	tokens_per_day BIGINT, 
	kudos_per_day FLOAT, 
	horde_key TEXT, 
	admin BOOLEAN NOT NULL, 
	created BIGINT NOT NULL, 
	revoked BIGINT, 
	PRIMARY KEY (digest), 
	UNIQUE (name)
);
INSERT INTO client_keys VALUES('digest-a','ann','["*llama*", "b"]','["chat"]',60,2,100000,12.5,'0000000000',true,1000,NULL);
INSERT INTO client_keys VALUES('digest-b','bob','[]','[]',NULL,NULL,NULL,NULL,NULL,false,2000,5000);
CREATE TABLE usage (
	day TEXT NOT NULL, 
	name TEXT NOT NULL, 
	model TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	requests BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	kudos FLOAT NOT NULL, 
	PRIMARY KEY (day, name, model, endpoint)
);
INSERT INTO usage VALUES('2026-01-31','ann','m','chat',1,0,10,5,1.5);
