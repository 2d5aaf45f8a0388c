-- A process is dead: ARGV = process, silence (ms; 0: its death was proved), poison limit, then its queues.
-- Its lists go back to the heads of their queues, at most 250 entries a call. An entry of Job_Queue that more processes
-- than the limit had in hand when they died is poison; `take` hands out a suspect alone. The dead process stays known for a day: a
-- pending move may still fill its lists.
-- Answer: {entries moved, entries left} or {-1, 0} where the process is not that silent.
local process, silence, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local seen = tonumber(call('ZSCORE', P .. 'Processes', process) or 0)
local known = P .. 'Process:' .. process
if silence > 0 and NOW - seen < silence then return { -1, 0 } end
frees()
if call('EXISTS', known) == 1 and not call('HGET', known, 'evicted') then call('HSET', known, 'evicted', NOW) end
local moved, left = 0, 0
for i = 4, #ARGV do
  local mine, queue = P .. ARGV[i] .. ':taken:' .. process, P .. ARGV[i]
  local took = call('HMGET', known, 'turn:' .. ARGV[i], 'hand:' .. ARGV[i])
  local turned, hand = (took[2] or ''):match('^(%d+) (%d+)$')
  -- what it was at when it died; the rest was not read yet. Without a note it is the first one
  hand = turned == (took[1] or '0') and tonumber(hand) or 1
  if ARGV[i] ~= 'Job_Queue' then hand = 0 end -- the other queues hold what our own processes wrote
  for _ = 1, 250 do
    local entry = call('LINDEX', mine, -1)
    if not entry then break end
    local count = 0
    if entry ~= '' and call('LLEN', mine) <= hand then -- a death counts once for a text, however many entries have it
      local digest = redis.sha1hex(entry)
      local had, last = (call('HGET', P .. 'Recovered', digest) or '0 '):match('^(%d+) (.*)$')
      count = tonumber(had) + (last == process and 0 or 1)
      call('HSET', P .. 'Recovered', digest, count .. ' ' .. process)
      call('EXPIRE', P .. 'Recovered', 86400)
    end
    if count > limit then
      call('RPUSH', P .. 'Dead_Queue', cjson.encode({ reason = 'poison: ' .. count ..
        ' processes died while they held this entry', queue = ARGV[i], time = NOW / 1000 }) .. '\n' .. entry)
      call('RPOP', mine)
    else
      call('LMOVE', mine, queue, 'RIGHT', 'LEFT')
    end
    moved = moved + 1
  end
  left = left + call('LLEN', mine)
end
if left == 0 and NOW - seen > 86400000 then
  call('ZREM', P .. 'Processes', process)
  call('UNLINK', known)
end
return { moved, left }
