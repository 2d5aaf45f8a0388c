-- Launches that were left to the poll of their endpoint: ARGV = lane suffix, system, least score in Running_Queue (as
-- ZRANGEBYSCORE takes it), how many. Who is being cancelled, killed, looked for or brought home has polls of its own and is left out.
-- Answer: the time (ms), the least score to go on with ('' when this is all), then 8 values a job: id, run, arrival,
-- state, handle, native state, progress, '1' where its spec may have terms for the judge. A page ends with all of one
-- score.
local queue, system, n = P .. 'Running_Queue' .. ARGV[1], ARGV[2], tonumber(ARGV[4])
local page = call('ZRANGEBYSCORE', queue, ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, n)
local more, ids, last = '', {}, nil
if #page == 2 * n then
  last = page[2 * n]
  more = '(' .. last
end
for i = 1, #page, 2 do
  if page[i + 1] ~= last then ids[#ids + 1] = page[i] end
end
if last then
  for _, id in ipairs(call('ZRANGEBYSCORE', queue, last, last)) do ids[#ids + 1] = id end
end
local found = { string.format('%.0f', NOW), more }
for _, id in ipairs(ids) do
  local v = call('HMGET', P .. 'Job:' .. id, 'system', 'run', 'state', 'handle', 'wish', 'killed', 'absent',
    'native_state', 'progress', 'score', 'exited')
  if v[1] == system and v[4] and POLLED[v[3]] and not v[5] and not v[6] and not v[7] and not v[11] then
    local spec = call('GET', P .. 'Spec:' .. id) or ''
    local terms = (spec:find('"outputs":', 1, true) or spec:find('"retry":', 1, true)) and '1' or ''
    local at = #found
    found[at + 1], found[at + 2], found[at + 3], found[at + 4], found[at + 5] = id, v[2], arrival_of(v[10]), v[3], v[4]
    found[at + 6], found[at + 7], found[at + 8] = v[8] or '', v[9] or '', terms
  end
end
return found
