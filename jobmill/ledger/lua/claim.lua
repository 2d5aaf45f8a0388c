-- Jobs that are due for a poll of their own: ARGV = lane suffix, how many, lease (ms). A claim moves a job to now +
-- lease, so that the poll of a fetcher that dies is made by another.
-- With ids after these: what the record has of these jobs, whatever their state; nothing is moved.
-- Answer: the time (ms), then 16 values a job: id, run, fence, state ('' where there is no such job), system, handle,
-- wish, owner, absent since (ms), killed since (ms), retries, sealed launches, arrival, '1' where its spec may have terms
-- for the judge, its exit record while what it left is brought home, since when (ms).
local queue, n, lease = P .. 'Running_Queue' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found = { string.format('%.0f', NOW) }

local function tell(id, v)
  local at = #found
  found[at + 1] = id
  for i = 1, 11 do found[at + 1 + i] = v[i] or (i == 1 and '1' or '') end -- a run is not written before the first grant
  local spec = call('GET', P .. 'Spec:' .. id) or ''
  found[at + 13] = v[12] and arrival_of(v[12]) or ''
  found[at + 14] = (spec:find('"outputs":', 1, true) or spec:find('"retry":', 1, true)) and '1' or ''
  found[at + 15], found[at + 16] = v[13] or '', v[14] or ''
end

local function facts(id)
  return call('HMGET', P .. 'Job:' .. id, 'run', 'fence', 'state', 'system', 'handle', 'wish', 'owner', 'absent',
    'killed', 'retries', 'seals', 'score', 'exited', 'exited_at')
end

if ARGV[4] then
  for a = 4, #ARGV do tell(ARGV[a], facts(ARGV[a])) end
  return found
end
frees()
for _, id in ipairs(call('ZRANGEBYSCORE', queue, '-inf', NOW, 'LIMIT', 0, n)) do
  local v = facts(id)
  if not v[3] or not POLLED[v[3]] then
    call('ZREM', queue, id)
  else
    call('ZADD', queue, NOW + lease, id)
    tell(id, v)
  end
end
return found
