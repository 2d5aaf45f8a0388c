-- What was put off and is due waits again: ARGV = how many. Answer: how many.
local due = call('ZRANGEBYSCORE', P .. 'Later', '-inf', NOW, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local j = read(id)
  if not j or j.state ~= 'later' then
    call('ZREM', P .. 'Later', id)
  else
    unindex(j)
    call('HDEL', j.key, 'why')
    call('HSET', j.key, 'state', 'waiting')
    wait(j)
    note(j, 'waiting')
  end
end
if #due > 0 then call('RPUSH', P .. 'Result_Queue', '') end
publish()
return #due
