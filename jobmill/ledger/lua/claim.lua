-- Jobs that are due for a poll: ARGV = lane suffix, how many, lease (ms). A claim moves a job to now + lease, so that
-- the poll of a fetcher that dies is made by another.
-- Answer: the time (ms), then id, run, fence, state, system, handle, wish, owner, absent since (ms), killed since (ms),
-- … for each.
local queue, n, lease = P .. 'Running_Queue' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found = { string.format('%.0f', NOW) }
frees()
for _, id in ipairs(call('ZRANGEBYSCORE', queue, '-inf', NOW, 'LIMIT', 0, n)) do
  local j = read(id)
  if not j or not POLLED[j.state] then
    call('ZREM', queue, id)
  else
    call('ZADD', queue, NOW + lease, id)
    local seen = call('HMGET', j.key, 'absent', 'killed')
    for _, v in ipairs({ id, j.run, j.fence, j.state, j.system, j.handle or '', j.wish or '', j.owner or '',
      seen[1] or '', seen[2] or '' }) do found[#found + 1] = v end
  end
end
return found
