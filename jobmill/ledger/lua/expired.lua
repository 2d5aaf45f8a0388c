-- Launches whose lease ran out: the right to investigate, never to run again (law 3).
-- ARGV = lane suffix, how many, lease of the investigation (ms), owner ('' any). With an owner, who is dead: its leases
-- run out now, and what it left running is due for a poll now. Answer then: the ids.
-- With an owner, and launch, run, fence, … after it: the leases of these launches of its alone run out now.
-- Answer: id, run, fence, system, handle, wish, seals, owner, arrival, … for each.
local queue, n, lease, owner = P .. 'Starting_Queue' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if ARGV[5] then
  local told = {}
  frees()
  for a = 5, #ARGV, 3 do
    local j = job_of(ARGV[a])
    if j and j.state == 'starting' and j.owner == owner and j.run == ARGV[a + 1] and j.fence == ARGV[a + 2] then
      call('ZADD', queue, NOW, j.id)
      told[#told + 1] = j.id
    end
  end
  return told
end
local ids = owner == '' and call('ZRANGEBYSCORE', queue, '-inf', NOW, 'LIMIT', 0, n) or call('ZRANGE', queue, 0, n - 1)
local found = {}
frees()
for _, id in ipairs(ids) do
  local j = read(id)
  if not j or j.state ~= 'starting' then
    call('ZREM', queue, id)
  elseif owner == '' then
    call('ZADD', queue, NOW + lease, id)
    local seals = call('HGET', j.key, 'seals') or '0'
    for _, v in ipairs({ id, j.run, j.fence, j.system, j.handle or '', j.wish or '', seals, j.owner or '',
      arrival_of(j.score) }) do
      found[#found + 1] = v
    end
  elseif j.owner == owner then
    call('ZADD', queue, NOW, id)
    found[#found + 1] = id
  end
end
if owner ~= '' then
  local running = P .. 'Running_Queue' .. ARGV[1]
  for _, id in ipairs(call('ZRANGE', running, 0, n - 1)) do
    if call('HGET', P .. 'Job:' .. id, 'owner') == owner then
      call('ZADD', running, NOW, id)
      found[#found + 1] = id
    end
  end
  if #found > 0 then call('RPUSH', P .. 'Exit_Queue' .. ARGV[1], '') end -- something is due
end
return found
