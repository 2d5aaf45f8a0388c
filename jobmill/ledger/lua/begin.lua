-- The head of the private list begins its launch: ARGV = process, queue, turn, lease (ms), '1' where this was sent before
-- and its answer did not come, then 4 values an entry: launch, fence, run, handle ('' where the system gives it later); launch '' is an entry to bury.
-- Answer: 'go' | 'void' an entry. The same turn again gives the same answer; by another process it is void.
local process, queue, lease = ARGV[1], ARGV[2], tonumber(ARGV[4])
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
local t = turn(process, queue, ARGV[3])
if not t or (t == 'again' and ARGV[5] ~= '1') then return { 'refused' } end
adds()
bundle()
local mine = P .. queue .. ':taken:' .. process
local n, told, gone = (#ARGV - 5) / 4, {}, {}
if t == 'now' then call('HINCRBY', P .. 'Process:' .. process, 'turn:' .. queue, 1) end
for e = 1, n do
  local a = 5 + (e - 1) * 4
  local id, arrival = launch_of(ARGV[a + 1])
  local fence, run, handle = ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local key = P .. 'Job:' .. id
  told[e] = 'void'
  if id == '' then
    if t == 'now' then
      call('RPUSH', P .. 'Dead_Queue', cjson.encode({ reason = 'not a granted job', queue = queue, time = NOW / 1000 })
        .. '\n' .. call('LINDEX', mine, e - 1))
    end
  else
    local j = call('HMGET', key, 'state', 'run', 'fence', 'system', 'owner', 'handle', 'score')
    if j[1] and j[2] == run and j[3] == fence and (not arrival or arrival_of(j[7]) == arrival) then
      if t == 'again' and j[1] == 'starting' and j[5] == process and not gone[id] then
        gone[id] = true -- an entry that stands there twice starts one launch, also in the answer to a turn sent again
        told[e] = 'go'
      elseif t == 'now' and j[1] == 'granted' then
        if handle ~= '' then
          call('HSET', key, 'state', 'starting', 'owner', process, 'handle', handle)
        else
          call('HSET', key, 'state', 'starting', 'owner', process)
          if j[6] then call('HDEL', key, 'handle') end
        end
        zadd(P .. 'Starting_Queue' .. lane(j[4]), NOW + lease, id)
        note({ id = id, run = run }, 'starting')
        told[e] = 'go'
      end
    end
  end
end
if t == 'now' then
  if n >= call('LLEN', mine) then call('UNLINK', mine) else call('LTRIM', mine, n, -1) end
  publish()
end
return told
