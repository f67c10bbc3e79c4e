insert into account values (1, 'First@example.com');
