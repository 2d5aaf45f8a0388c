-- A process enters: ARGV = name, then field value … (role, host, pid, start, boot, lane, digest).
-- Answer: the Record id, made once.
local name = ARGV[1]
adds()
call('HSET', P .. 'Process:' .. name, 'since', NOW, unpack(ARGV, 2))
call('ZADD', P .. 'Processes', NOW, name)
call('SET', KEYS[1], redis.sha1hex(name .. NOW .. TIME[2]):sub(1, 12), 'NX')
return call('GET', KEYS[1])
