-- Jobs ended, others waited for them: ARGV = process, queue, turn, entries to drop, then the ids that ended.
-- At most 250 dependents a call. Answer: the ids that have more (call again with them), then the private list moves on.
local process, queue = ARGV[1], ARGV[2]
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
frees()
local left, rung, budget = {}, {}, 250
for i = 5, #ARGV do
  local ended = ARGV[i]
  local state = call('HGET', P .. 'Job:' .. ended, 'state')
  local waiters = P .. 'Job:' .. ended .. ':dependents'
  if state and ENDED[state] then
    while budget > 0 do
      local id = call('SRANDMEMBER', waiters)
      if not id then break end
      budget = budget - 1
      call('SREM', waiters, id)
      local j = read(id)
      if j and tonumber(j.blocked or 0) > 0 and not ENDED[j.state] then
        local after = call('HGET', j.key, 'after') or 'ok'
        local good = after == 'any' or (after == 'failed' and (state == 'failed' or state == 'lost')) or
          (after == 'ok' and state == 'done')
        if good then
          local rest = call('HINCRBY', j.key, 'blocked', -1)
          if rest == 0 and j.state == 'waiting' then
            unindex(j)
            j.blocked = nil
            line_up(j)
          end
        elseif can(j, 'not_run') then
          finish(j, 'not_run', cjson.encode({ exit_status = 'aborted_before_running', reason = 'dependency_failed',
            evidence = 'record', message = 'it depends on ' .. ended .. ', which ended ' .. state }))
          if ring(j) then rung[#rung + 1] = id end
        end
      end
    end
    if call('EXISTS', waiters) == 1 then left[#left + 1] = ended end
  end
end
if #rung > 0 then call('RPUSH', P .. 'Result_Queue', unpack(rung)) end
publish()
if #left == 0 and turn(process, queue, ARGV[3]) == 'now' then
  call('HINCRBY', P .. 'Process:' .. process, 'turn:' .. queue, 1)
  call('LTRIM', P .. queue .. ':taken:' .. process, ARGV[4], -1)
end
return left
