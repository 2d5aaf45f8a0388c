-- Ended records older than ARGV[1] (ms) go, in one script each batch (law 11): ARGV = age, how many, skip, end state.
-- Never while somebody still waits for the job. Answer: {removed, kept though old}.
local before, n, skip, state = NOW - ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local removed, kept = 0, 0
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'Jobs:' .. state, '-inf', before, 'LIMIT', skip, n)) do
  local j = read(id)
  if call('EXISTS', P .. 'Job:' .. id .. ':dependents') == 1 then
    kept = kept + 1
  else
    call('ZREM', P .. 'Jobs:' .. state, id)
    for tag in (j and j.tags or ''):gmatch('%S+') do call('ZREM', P .. 'Jobs:by-tag:' .. tag, id) end
    -- it may have ended before what it waited for: another job of this id must not be let go in its place
    for dependency in (j and call('HGET', j.key, 'depends') or ''):gmatch('%S+') do
      call('SREM', P .. 'Job:' .. dependency .. ':dependents', id)
    end
    call('UNLINK', P .. 'Job:' .. id, P .. 'Spec:' .. id, P .. 'Job:' .. id .. ':runs')
    removed = removed + 1
  end
end
return { removed, kept }
